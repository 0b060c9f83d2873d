"""Names of a form's files, as clients write them.

Most write UTF-8 between quotes (RFC 7578, 4.2). Others write `filename*` (RFC 8187) or the encoded words of mail
(RFC 2047), leave out the quotes, or take the code page of their machine, curl and old Java among them.
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import unquote_to_bytes

from api.http.forms.legacy_text import legacy_text

#: UTF-16 between two quotes, with its byte order mark or of characters that have a zero byte.
WIDE_NAME = re.compile(
    rb'(?<=filename=")(?:\xff\xfe(?:[^\r\n"][^\r\n])+|\xfe\xff(?:[^\r\n][^\r\n"])+|(?:[^\r\n"\0]\0)+|(?:\0[^\r\n"\0])+)(?=")'
)
#: Without quotes it ends with the line or at a semicolon; a token could hold neither a blank nor what is no ASCII.
UNQUOTED_NAME = re.compile(rb"(?i)(?<=filename=)(?=[^\s\"])[^;\r\n]*[^;\s]")
EXTENDED_NAME = re.compile(r"filename\*\s*=\s*\"?(?P<charset>[\w.:-]*)'[\w-]*'(?P<name>[^;\"\s]*)", re.IGNORECASE)
ENCODED_WORDS = re.compile(r"(?:=\?[\w.:-]+\?[bq]\?[^?\s]*\?=\s*)+", re.IGNORECASE)


def is_plain_name(disposition: str) -> bool:
    """Return True for a Content-Disposition without a file's name, or with one in quotes that is no word of mail's."""
    lower = disposition.lower()
    return "filename" not in lower or ('filename="' in lower and "filename*" not in lower and "=?" not in lower)


def in_utf8(head: bytes) -> bytes:
    """Return the head of a part in UTF-8, with its file's name between quotes."""
    head = UNQUOTED_NAME.sub(lambda name: b'"%s"' % _escaped(name[0]), WIDE_NAME.sub(_narrow, head))
    try:
        head.decode()
    except UnicodeDecodeError:
        return legacy_text(head).encode()
    return head


def file_name(disposition: str, name: str | None) -> str | None:
    """Return the name that a Content-Disposition means, whose `filename` was read as `name`.

    `filename*` (RFC 8187, 3.2) goes before `filename` (RFC 6266, 4.3).
    """
    found = EXTENDED_NAME.search(disposition)
    if found is None or not found["name"]:
        return name and _encoded_words(name)
    raw = unquote_to_bytes(found["name"])
    try:
        return raw.decode(found["charset"] or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return legacy_text(raw)


def _encoded_words(name: str) -> str:
    """Return the text of a name that consists of encoded words (RFC 2047, 2); any other as it is."""
    if not ENCODED_WORDS.fullmatch(name):
        return name
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return name


def _narrow(name: re.Match[bytes]) -> bytes:
    """Return a name of UTF-16 in UTF-8, with its quotes escaped."""
    raw = name[0]
    encoding = "utf-16" if raw[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-16-be" if raw[0] == 0 else "utf-16-le"
    return re.sub(rb"[\r\n\0]", b"", _escaped(raw.decode(encoding, "replace").encode()))


def _escaped(name: bytes) -> bytes:
    return name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
