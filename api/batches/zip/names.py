"""The names of a ZIP's members as text, whatever wrote them (APPNOTE.TXT 6.3.10, 4.4.17, 4.6.9 and appendix D).

They are UTF-8 where their bytes are, as macOS writes them without saying so (flag 11), or where a Unicode path says
them. Else they are in the code page of the machine that packed them, which nothing names: it is guessed, from the
letters that come out. The guess serves the eye. What counts is that a folder has one text, however its files are
called, and that a byte 0x5C which is the second half of a character is no separator.
"""

from __future__ import annotations

from zlib import crc32

from api.http.forms.legacy_text import legacy_text

UNICODE_PATH = 0x7075


def member_name(raw: bytes, extra: dict[int, bytes]) -> str:
    """Return a member's name; `/` separates its folders, and `\\` where it can mean nothing else."""
    unicode_path = _unicode_path(raw, extra.get(UNICODE_PATH, b""))
    for known in (unicode_path, raw):
        try:
            if known is not None:
                return known.decode()
        except UnicodeDecodeError:
            continue
    folder, slash, base = raw.rpartition(b"/")
    text = legacy_text(folder, oem=True) + ("/" if slash else "") + legacy_text(base, oem=True)
    # What has slashes as separators has no others, so that this is part of a name.
    return text.replace("\\", "\N{FULLWIDTH REVERSE SOLIDUS}") if slash else text


def _unicode_path(raw: bytes, content: bytes) -> bytes | None:
    """Info-ZIP's Unicode path, if it is of this name: one that was renamed since has another checksum."""
    if len(content) < 5 or content[0] != 1 or int.from_bytes(content[1:5], "little") != crc32(raw):
        return None
    return content[5:]
