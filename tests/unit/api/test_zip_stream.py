"""ZIPs as programs write them, read member by member, whatever the pieces they come in; what is not read is named."""

from __future__ import annotations

import io
import os
import zlib
from dataclasses import replace
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from stream_unzip import stream_unzip

from api.batches.zip_reader import Archive
from shared.config import Settings
from shared.errors import ArchiveLimits, BadRequest, ThoraqError, UnreadableArchive, UnsafeArchive
from tests.support.files.archives import (
    BARE,
    BARE64,
    BZIP2,
    DEFLATED,
    SIGNED,
    SIGNED64,
    STORED,
    UNWRITTEN,
    Part,
    archive,
    in_pieces,
)

ONE, TWO = os.urandom(5_000), b"two" * 40_000
FIRST, LAST = Part(b"first.png", ONE), Part(b"last.png", TWO)


def config() -> Settings:
    unused = SecretStr("")
    return Settings.model_construct(database_url=unused, redis_url=unused, secret_key=unused)


def read(body: bytes, piece: int = 65_536) -> list[tuple[str, bytes | str]]:
    """Each item's name, and its bytes or the type of its error."""
    found: list[tuple[str, bytes | str]] = []
    for member in Archive(in_pieces(body, piece), 0, config()):
        with member.file as file:
            content = file.read()
        assert member.error is not None or member.size == len(content)
        found.append((member.name, member.error.type if member.error else content))
    return found


@pytest.mark.parametrize("piece", [1, 13, 700, 100_000])
@pytest.mark.parametrize("described", [None, SIGNED, BARE, SIGNED64, BARE64])
@pytest.mark.parametrize("method", [STORED, DEFLATED, BZIP2])
def test_a_member_is_read_wherever_its_size_stands(method: int, described: str | None, piece: int) -> None:
    parts = [Part(b"0.png", b""), Part(b"1.png", ONE), Part(b"2.png", TWO), Part(b"3.png", b""), Part(b"4.png", b"x")]
    parts = [replace(part, method=method, described=described) for part in parts]
    assert read(archive(*parts), piece) == [(part.name.decode(), part.content) for part in parts]


@pytest.mark.parametrize("described", [SIGNED, BARE, UNWRITTEN])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_an_empty_member_or_directory_in_a_stream_loses_nothing_after_it(method: int, described: str) -> None:
    empty = Part(b"study/", b"", method, described, packed=b"" if method == STORED else None)
    if described != UNWRITTEN:
        lock = Part(b"study/LOCK", b"", STORED, described)
        assert read(archive(empty, lock, FIRST, LAST)) == [("study/LOCK", b""), ("first.png", ONE), ("last.png", TWO)]
    assert read(archive(FIRST, empty, LAST)) == [("first.png", ONE), ("last.png", TWO)]


@pytest.mark.parametrize("described", [SIGNED, BARE])
@pytest.mark.parametrize("method", [STORED, DEFLATED, BZIP2])
def test_a_size_without_the_other_is_not_relied_on(method: int, described: str) -> None:
    parts = [replace(part, method=method, described=described, size_known=True) for part in (FIRST, LAST)]
    assert read(archive(*parts)) == [("first.png", ONE), ("last.png", TWO)]


def test_sizes_of_zip64_are_read() -> None:
    parts = [replace(FIRST, zip64=True), replace(LAST, zip64=True, method=STORED)]
    assert read(archive(*parts)) == [("first.png", ONE), ("last.png", TWO)]


@pytest.mark.parametrize("prefix", [b"", b"PK00", b"PK\x07\x08", b"MZ" + bytes(70_000) + b"PK\x03\x04PK\x05\x06 stub"])
@pytest.mark.parametrize("gap", [b"", bytes(4096), b"APK Sig Block 42"])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_what_stands_around_the_members_does_not_matter(prefix: bytes, gap: bytes, comment: bytes) -> None:
    for described in (None, SIGNED):
        body = archive(FIRST, replace(LAST, described=described), prefix=prefix, gap=gap, comment=comment)
        assert read(body, 1000) == [("first.png", ONE), ("last.png", TWO)]


@pytest.mark.parametrize("described", [None, SIGNED, BARE])
@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Part(b"x.png", ONE, method=9), "unreadable-member"),
        (Part(b"x.png", ONE, method=14), "unreadable-member"),
        (Part(b"x.png", ONE, method=93), "unreadable-member"),
        (Part(b"x.png", ONE, method=99), "unreadable-member"),
        (Part(b"x.png", ONE, flags=1), "unreadable-member"),
        (Part(b"x.png", ONE, flags=0x41), "unreadable-member"),
        (Part(b"x.png", ONE, crc=5), "corrupt-image"),
        (Part(b"x.png", ONE, STORED, crc=5), "corrupt-image"),
        (Part(b"x.png", TWO, packed=b"\xff" * 100_000), "corrupt-image"),
        (Part(b"x.png", TWO, packed=zlib.compress(TWO)[2:-30]), "corrupt-image"),
        (Part(b"x.png", TWO, BZIP2, packed=b"BZh9" + b"\xff" * 1000), "corrupt-image"),
        (Part(b"x.jar", archive(FIRST)), "nested-archive"),
        (Part(b"x.jar", archive(FIRST), STORED), "nested-archive"),
    ],
)
def test_a_member_that_cannot_be_read_fails_alone(part: Part, kind: str, described: str | None) -> None:
    body = archive(FIRST, replace(part, described=described), LAST)
    for piece in (100, 65_536):
        assert read(body, piece) == [("first.png", ONE), (part.name.decode(), kind), ("last.png", TWO)]


def test_what_is_not_read_says_what_it_is() -> None:
    details = []
    for part in (Part(b"x", ONE, method=9), Part(b"x", ONE, flags=1), Part(b"x", ONE, method=42)):
        (member,) = Archive([archive(part)], 0, config())
        member.file.close()
        assert member.error is not None
        details.append(member.error.detail)
    assert details == [
        "It is packed with Deflate64, which is not read: pack it with Deflate, or store it.",
        "It is encrypted: pack it without a password.",
        "It is packed with method 42, which is not read: pack it with Deflate, or store it.",
    ]


def refused(body: bytes, kind: type[ThoraqError]) -> ThoraqError:
    with pytest.raises(kind) as caught:
        read(body)
    return caught.value


def test_where_nothing_more_is_found_the_member_is_named() -> None:
    lost = replace(FIRST, name=b"lost.png", described=UNWRITTEN, packed=b"\xff" * 500)
    error = refused(archive(FIRST, lost)[:-200], UnreadableArchive)
    assert error.extensions == {"item": 1, "member": "lost.png"}
    assert "names" not in error.detail
    refused(b"no ZIP at all, and long enough to look at", UnreadableArchive)
    refused(archive(FIRST, gap=b"\xff" * 200_000), UnreadableArchive)


@pytest.mark.parametrize("described", [None, SIGNED])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_an_archive_that_ends_too_early_says_so(method: int, described: str | None) -> None:
    body = archive(*(replace(part, method=method, described=described) for part in (FIRST, LAST)))
    for length in (0, 2, 20, 100, len(body) // 2, body.index(b"PK\x01\x02"), len(body) - 5):
        refused(body[:length], BadRequest)


@pytest.mark.parametrize("name", ["/etc/x", "..", "a/../../x", "C:\\x", "c:/x", "\\\\host\\x", "a\\..\\..\\x", "a\0b"])
def test_a_path_out_of_the_archive_refuses_it_and_is_named(name: str) -> None:
    error = refused(archive(FIRST, Part(name.encode(), ONE)), UnsafeArchive)
    assert error.extensions == {"item": 1, "member": name.replace("\0", "\ufffd")}
    assert name not in error.detail


def test_a_link_is_named() -> None:
    error = refused(archive(FIRST, Part("ü/link".encode(), b"/etc/passwd", mode=0o120777)), UnsafeArchive)
    assert error.extensions["member"] == "ü/link"


def test_members_and_directory_must_be_the_same() -> None:
    """Else whoever unpacks by the directory gets other files than those that are classified."""
    assert (
        "not in the archive's directory" in refused(archive(FIRST, replace(LAST, listed=False)), UnsafeArchive).detail
    )
    body = archive(FIRST, LAST)
    at = body.rindex(b"PK\x01\x02") + 42
    for offset, said in ((0, "overlap"), (7, "is not there")):
        other = body[:at] + offset.to_bytes(4, "little") + body[at + 4 :]
        assert said in refused(other, UnsafeArchive).detail


def test_a_stored_member_cannot_hide_others() -> None:
    """Its bytes look like its end and another member; the directory knows of none."""
    inner = archive(Part(b"hidden.png", ONE, STORED, SIGNED))
    fake = b"x" * 100 + b"PK\x07\x08" + zlib.crc32(b"x" * 100).to_bytes(4, "little") + (100).to_bytes(4, "little") * 2
    refused(archive(Part(b"a.png", fake + inner, STORED, SIGNED)), UnsafeArchive)
    # Descriptors of other members are not taken for its own.
    assert read(archive(Part(b"a.bin", b"x" + inner, STORED, SIGNED), LAST))[0] == ("a.bin", b"x" + inner)


def test_the_rest_of_an_archive_is_read_with_the_whole_directory() -> None:
    body = archive(FIRST, LAST)
    members = list(Archive([body[body.index(b"PK\x03\x04", 4) :]], 1, config()))
    assert [(member.item, member.name) for member in members] == [(1, "last.png")]
    members[0].file.close()


def test_a_bomb_is_refused_before_it_is_unpacked_whole() -> None:
    for method in (DEFLATED, BZIP2):
        bomb = archive(Part(b"x.png", bytes(150_000_000), method))
        assert "times its size" in refused(bomb, ArchiveLimits).detail


@pytest.mark.parametrize(
    "name",
    [
        "__MACOSX/._a.png", "a/__MACOSX/b.png", "._a.png", ".DS_Store", "a/.ds_store", "Thumbs.db", "DESKTOP.INI",
        "DICOMDIR", "cd/dicomdir", ".Trashes/501/a.png", "$RECYCLE.BIN/a.png", "@eaDir/a.png", "cd\\DICOMDIR",
        "System Volume Information/x", "AUTORUN.INF",
    ],
)  # fmt: skip
def test_what_systems_put_beside_the_pictures_is_left_out_and_named(name: str) -> None:
    ignored: list[tuple[int, str]] = []
    broken = Part(name.encode(), ONE, crc=3)  # nobody wants to have it
    body = archive(Part(b"a/"), FIRST, Part(name.encode(), ONE), broken, LAST)
    members = list(Archive([body], 0, config(), lambda item, left_out: ignored.append((item, left_out))))
    assert [member.name for member in members] == ["first.png", "last.png"]
    assert ignored == [(1, name), (1, name)]
    for member in members:
        member.file.close()


@pytest.mark.parametrize("name", ["scan/.625 LUNG/IM1.jpg", ".1.2.840.dcm", "..a/b.png", "viewer.exe", "a.DICOMDIR"])
def test_a_dot_does_not_hide_a_picture(name: str) -> None:
    assert read(archive(Part(name.encode(), ONE))) == [(name, ONE)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=300), st.sampled_from([STORED, DEFLATED, BZIP2]), st.sampled_from([None, SIGNED])),
        max_size=5,
    ),
    st.integers(1, 200),
)
def test_any_archive_is_read_as_zipfile_reads_it(members: list[tuple[bytes, int, str | None]], piece: int) -> None:
    parts = [
        Part(b"%d.bin" % number, content, method, described)
        for number, (content, method, described) in enumerate(members)
    ]
    body = archive(*parts)
    with ZipFile(io.BytesIO(body)) as file:
        expected = [(name, file.read(name)) for name in file.namelist()]
    found = [(name, content) for name, content in read(body, piece) if content != "nested-archive"]
    assert found == [(name, content) for name, content in expected if (name, "nested-archive") not in read(body, piece)]


def test_another_reader_of_streams_agrees() -> None:
    sink = io.BytesIO()
    with ZipFile(sink, "w", ZIP_DEFLATED) as file:
        for number in range(20):
            file.writestr(f"{number}.bin", os.urandom(1000 * number) + bytes(1000))
    body = sink.getvalue()
    expected = [(name.decode(), b"".join(content)) for name, _, content in stream_unzip([body])]
    assert read(body, 4000) == expected
