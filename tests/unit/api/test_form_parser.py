"""Small forms are read as werkzeug reads them, whichever of the two parsers does it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from api.http.forms.parser import StrictFormParser
from api.http.forms.spool import MEMORY_BYTES
from shared.errors import BadRequest, EncodedPart

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


def name_of(header: bytes) -> str:
    """The name of the one file of a form, read in one go and streamed."""
    names = set()
    for size in (3, MEMORY_BYTES):
        ((field, name, content),) = read_by(StrictFormParser(), form((header, b"1" * size)))[1]
        assert (field, len(content)) == ("f", size)
        names.add(name)
    (name,) = names
    return str(name)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "表 ü.dcm"),
        ("latin-1", "Müller, José.dcm"),
        ("cp932", "患者表.dcm"),
        ("cp932", "表"),
        ("cp932", "患者/ソ.jpg"),
        ("gb2312", "患者张三.dcm"),
        ("cp1251", "Снимок 1.dcm"),
        ("cp1251", "снимок груди.png"),
        ("cp1251", "СНИМОК.png"),
        ("koi8-r", "снимок.png"),
        ("koi8-r", "Снимок груди 1.png"),
        ("koi8-r", "СНИМОК.png"),
        ("cp932", "ｶﾙﾃ.png"),
        ("cp1252", "Sánchez.dcm"),
        ("euc_kr", "흉부정면.dcm"),
        ("euc_kr", "김철수 1.dcm"),
        ("gb2312", "胸部影像.png"),
        ("gb2312", "病人.png"),
        ("gbk", "陳大文.png"),
        ("big5", "胸部影像.png"),
        ("cp437", "äxx.png"),
        ("cp850", "Jørgensen.png"),
        ("utf-16", "Müller 表.png"),
        ("utf-16-le", "M.png"),
        ("utf-16-be", "a b.png"),
    ],
)
def test_a_name_in_another_encoding_spoils_no_form(encoding: str, name: str) -> None:
    header = b'Content-Disposition: form-data; name="f"; filename="%s"' % name.encode(encoding)
    assert name_of(header) == name
    assert name_of(header + b"\r\nContent-Type: application/dicom") == name


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename*=UTF-8''%E8%A1%A8%201.dcm", "表 1.dcm"),
        ("filename*=utf-8'de'M%C3%BCller.dcm", "Müller.dcm"),
        ("filename*=ISO-8859-1''M%FCller.dcm", "Müller.dcm"),
        ("filename*=Shift_JIS'ja'%95%5C.dcm", "表.dcm"),
        ("filename*=no-such-charset''M%FCller.dcm", "Müller.dcm"),
        ("filename*=UTF-8''M%FCller.dcm", "Müller.dcm"),
        ("filename=\"M_ller.dcm\"; filename*=UTF-8''M%C3%BCller.dcm", "Müller.dcm"),
        ("filename*=UTF-8''M%C3%BCller.dcm; filename=\"M_ller.dcm\"", "Müller.dcm"),
    ],
)
def test_an_extended_name_goes_first(parameters: str, name: str) -> None:
    assert name_of(f'Content-Disposition: form-data; name="f"; {parameters}'.encode()) == name


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename=M.png", "M.png"),
        ("filename=Müller.png", "Müller.png"),
        ("filename=M\N{COMBINING DIAERESIS} 1.png; size=3", "M\N{COMBINING DIAERESIS} 1.png"),
        ('filename=a"b\\.png', 'a"b\\.png'),
        ('filename="=?utf-8?B?TcO8bGxlcg==?= =?utf-8?Q?=2Epng?="', "Müller.png"),
        ("filename==?iso-8859-1?q?M=FCller.png?=", "Müller.png"),
        ('filename="=?no-such-charset?B?TQ==?="', "=?no-such-charset?B?TQ==?="),
        ('filename="1+1=?.png"', "1+1=?.png"),
    ],
)
def test_names_as_mail_writes_them(parameters: str, name: str) -> None:
    """Without quotes, or in the encoded words of RFC 2047."""
    assert name_of(f'Content-Disposition: form-data; name="f"; {parameters}'.encode()) == name


@pytest.mark.parametrize("encoding", ["", "7bit", "8BIT", "binary"])
def test_bytes_that_are_sent_as_they_are_may_say_so(encoding: str) -> None:
    header = FILE + f"\r\nContent-Transfer-Encoding: {encoding}".encode()
    assert read_by(StrictFormParser(), form((header, b"abc"))) == ([], [("f", "x.png", b"abc")])


@pytest.mark.parametrize("part", [TEXT, FILE])
@pytest.mark.parametrize("encoding", ["base64", "Quoted-Printable"])
def test_an_encoded_part_is_refused_by_name(part: bytes, encoding: str) -> None:
    """Its bytes would be taken for those of a file of no known format."""
    header = part + f"\r\nContent-Transfer-Encoding: {encoding}".encode()
    with pytest.raises(EncodedPart, match=f"part '[af]' has the Content-Transfer-Encoding '{encoding.lower()}'"):
        read_by(StrictFormParser(), form((header, b"YWJj")))


def test_what_is_no_name_is_read_leniently_too() -> None:
    header = b'Content-Disposition: form-data; name="\xfcber"'
    fields, _ = read_by(StrictFormParser(), form((header, b"\xe4"), (TEXT, b"b")))
    assert fields == [("über", "\ufffd"), ("a", "b")]


@pytest.mark.parametrize("body", [b"", b"--limit", form((TEXT, b"b"))[:-12], form((FILE, b"1"), end=b"--other--\r\n")])
def test_a_form_without_an_end_is_malformed(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_by(StrictFormParser(), body)


def test_more_parts_than_are_taken_are_too_large() -> None:
    with pytest.raises(RequestEntityTooLarge):
        read_by(StrictFormParser(max_form_parts=2), form(*[(TEXT, b"b")] * 3))
    assert read_by(StrictFormParser(max_form_parts=3), form(*[(TEXT, b"b")] * 3))[0] == [("a", "b")] * 3
