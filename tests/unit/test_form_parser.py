"""Small forms are read as werkzeug reads them, whichever of the two parsers does it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from api.form_parser import StrictFormParser
from api.form_spool import MEMORY_BYTES
from shared.errors import BadRequest

TEXT, FILE = b'Content-Disposition: form-data; name="a"', b'Content-Disposition: form-data; name="f"; filename="x.png"'


def form(*parts: tuple[bytes, bytes], end: bytes = b"--limit--\r\n") -> bytes:
    return b"".join(b"--limit\r\n%s\r\n\r\n%s\r\n" % part for part in parts) + end


def werkzeugs() -> FormDataParser:
    return FormDataParser(lambda *_, **__: io.BytesIO(), silent=False)


def read_by(parser: FormDataParser, body: bytes) -> tuple[list[tuple[str, str]], list[tuple[str, Any, bytes]]]:
    _, fields, files = parser.parse(io.BytesIO(body), "multipart/form-data", len(body), {"boundary": "limit"})
    read = []
    for name, file in files.items(multi=True):
        read.append((name, file.filename, file.stream.read()))
        file.close()
    return list(fields.items(multi=True)), read


def assert_as_werkzeug(body: bytes) -> None:
    assert read_by(StrictFormParser(), body) == read_by(werkzeugs(), body)


@pytest.mark.parametrize(
    "body",
    [
        form((TEXT, b"b"), (FILE, b"\x89PNG\r\n\r\n"), (TEXT, b"c")),
        form((TEXT, b""), (FILE, b"")),
        form((TEXT, "é\N{SNOWMAN}".encode()), (FILE.replace(b"x", "ü".encode()), b"1")),
        form((TEXT, b"\xff"), (FILE, b"--limi")),
        form((FILE, b"\r\n--limit"), (TEXT, b"b")),
        form((TEXT + b"\r\nContent-Type: text/plain; charset=iso-8859-1", b"\xe9")),
        form((b"Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''%C3%BC.png", b"1"), (TEXT, b"b")),
        form((FILE.replace(b'"x.png"', b'""'), b"1")),
        # The head of a part that has no body (RFC 2046, 5.1.1) ends where the next boundary begins.
        b"--limit\r\n" + TEXT + b"\r\n\r\n" + form((FILE, b"1")),
        form((TEXT, b"b"), end=b"--limit--\r\nwhat follows the end"),
        b"what comes before\r\n" + form((TEXT, b"b")),
        form((TEXT, b"b")).replace(b"--limit\r\n", b"--limit  \r\n"),
        form((TEXT, b"b")).replace(b"\r\n", b"\n"),
        form((FILE, bytes(MEMORY_BYTES)), (TEXT, b"b")),
    ],
)
def test_a_form_is_read_as_before(body: bytes) -> None:
    assert_as_werkzeug(body)


@given(st.lists(st.tuples(st.sampled_from([TEXT, FILE]), st.text("-limt\r\nab").map(str.encode))))
def test_any_form_is_read_as_before(parts: list[tuple[bytes, bytes]]) -> None:
    try:
        expected = read_by(werkzeugs(), form(*parts))
    except ValueError:
        with pytest.raises(BadRequest):
            read_by(StrictFormParser(), form(*parts))
    else:
        assert read_by(StrictFormParser(), form(*parts)) == expected


@pytest.mark.parametrize("body", [b"", b"--limit", form((TEXT, b"b"))[:-12], form((FILE, b"1"), end=b"--other--\r\n")])
def test_a_form_without_an_end_is_malformed(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_by(StrictFormParser(), body)


def test_more_parts_than_are_taken_are_too_large() -> None:
    with pytest.raises(RequestEntityTooLarge):
        read_by(StrictFormParser(max_form_parts=2), form(*[(TEXT, b"b")] * 3))
    assert read_by(StrictFormParser(max_form_parts=3), form(*[(TEXT, b"b")] * 3))[0] == [("a", "b")] * 3
