"""What a batch sends: packed files and stored ZIPs, whole and from any item on, as a reader of the stream sees them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from stream_unzip import stream_unzip

from api.batches.ignored_files import is_directory, is_ignored
from api.batches.zip_reader import Archive as ReceivedArchive
from client.archive import PIECE_BYTES, Archive, PackedArchive, StoredArchive, archive_of, counted
from shared.config import Settings

PIXELS = {f"{index}.png": os.urandom(3000 * index) for index in range(6)}  # the first is empty


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "series").mkdir(parents=True)
    (folder / ".trash").mkdir()
    for name, data in PIXELS.items():
        (folder / name).write_bytes(data)
    for name in ("series/a.png", "notes.txt", ".hidden.png", ".trash/b.png", "DICOMDIR"):
        (folder / name).write_bytes(b"pixels of a")
    return folder


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "export.zip"
    with ZipFile(path, "w") as archive:
        archive.mkdir("export")
        for index, (name, data) in enumerate(PIXELS.items()):
            archive.writestr(f"__MACOSX/export/._{name}", b"what macOS knows about it")
            archive.writestr(f"export/{name}", data, compress_type=ZIP_DEFLATED if index % 2 else ZIP_STORED)
        archive.writestr("export/DICOMDIR", b"DICM")
    return path


def read(archive: Archive, first: int = 0) -> list[tuple[str, bytes]]:
    """The items as the server would count them."""
    members = stream_unzip(piece.data for piece in archive.pieces(first))
    found = [(name.decode(), b"".join(data)) for name, _, data in members]
    return [(name, data) for name, data in found if not name.endswith("/") and counted(name)]


def test_files_are_packed_under_their_directory_s_name_and_without_what_is_no_image(folder: Path) -> None:
    archive, skipped = archive_of([folder, folder / "0.png"])
    assert read(archive) == [
        *[(f"export/{name}", data) for name, data in PIXELS.items()],
        ("export/series/a.png", b"pixels of a"),
    ]
    assert skipped == 4


def test_a_file_that_is_named_is_sent_whatever_it_is(folder: Path) -> None:
    archive, skipped = archive_of([folder / "notes.txt", folder / "series"])
    assert [name for name, _ in read(archive)] == ["notes.txt", "series/a.png"]
    assert skipped == 0


def test_the_directory_that_one_stands_in_has_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "series")
    assert [name for name, _ in read(archive_of([Path()])[0])] == ["series/a.png"]
    hidden = folder.rename(folder.parent / ".export")
    monkeypatch.chdir(hidden)
    assert [name for name, _ in read(archive_of([hidden / "series"])[0])] == ["series/a.png"]
    assert read(archive_of([hidden])[0])[0][0] == "export/0.png"


def test_a_name_that_no_encoding_explains_is_sent(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/M\xdcLLER.png")).write_bytes(b"pixels")
    assert [data for _, data in read(archive_of([tmp_path])[0])] == [b"pixels"]


@pytest.fixture(params=["folder", "stored"])
def path(request: pytest.FixtureRequest) -> Path:
    """One kind of archive after the other."""
    found: Path = request.getfixturevalue(request.param)
    return found


def test_from_every_item_on_there_is_the_rest_in_its_order(path: Path) -> None:
    archive, _ = archive_of([path])
    whole = read(archive)
    assert len(whole) == len(archive)
    assert dict(whole) | {f"export/{name}": data for name, data in PIXELS.items()} == dict(whole)
    for first in range(len(archive) + 1):
        assert read(archive, first) == whole[first:]


def test_small_and_large_files_are_one_archive_that_others_read_too(tmp_path: Path) -> None:
    contents = {"1.png": b"small", "2 \u00e4.png": os.urandom(PIECE_BYTES), "3.png": b"", "4.png": os.urandom(700_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    archive, _ = archive_of([tmp_path / name for name in contents])
    assert read(archive) == list(contents.items())
    for first in range(len(archive) + 1):
        with ZipFile(io.BytesIO(b"".join(piece.data for piece in archive.pieces(first)))) as found:
            assert {name: found.read(name) for name in found.namelist()} == dict([*contents.items()][first:])


def test_the_server_knows_how_large_a_member_is(path: Path) -> None:
    """By that it decides how many go to the store together."""
    archive, _ = archive_of([path])
    unused = SecretStr("")
    settings = Settings.model_construct(database_url=unused, redis_url=unused, secret_key=unused)
    received = ReceivedArchive((piece.data for piece in archive.pieces(0)), 0, settings)
    for member in received:
        with member.file as file:
            assert member.size == len(file.read())


def test_pieces_count_the_items_that_they_complete(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.archive.PIECE_BYTES", 1000)
    archive, _ = archive_of([path])
    for first in (0, 3):
        counts = [piece.items for piece in archive.pieces(first)]
        assert counts == sorted(counts)
        assert first <= counts[0] < counts[-1] == len(archive)
        assert len(set(counts)) > 2
    offsets = [archive.offset(item) for item in range(len(archive) + 1)]
    assert offsets == sorted(offsets)
    assert offsets[0] == 0
    assert offsets[-1] >= sum(map(len, PIXELS.values())) // 2


def test_a_stored_zip_is_sent_as_it_is(stored: Path) -> None:
    sent = b"".join(piece.data for piece in StoredArchive(stored).pieces(0))
    assert stored.read_bytes().endswith(sent)
    assert len(sent) > len(stored.read_bytes()) * 0.9


def test_what_is_left_out_before_an_item_is_sent_with_it(stored: Path) -> None:
    """The server notes it with the item: an upload that goes on must neither lose it nor bring it twice."""
    unused = SecretStr("")
    settings = Settings.model_construct(database_url=unused, redis_url=unused, secret_key=unused)

    def left_out(first: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        pieces = (piece.data for piece in StoredArchive(stored).pieces(first))
        for member in ReceivedArchive(pieces, first, settings, lambda item, name: found.append((item, name))):
            member.file.close()
        return found

    whole = left_out(0)
    assert whole == [
        *((index, f"__MACOSX/export/._{name}") for index, name in enumerate(PIXELS)),
        (len(PIXELS), "export/DICOMDIR"),
    ]
    for first in range(len(PIXELS) + 1):
        assert left_out(first) == [(item, name) for item, name in whole if item >= first]


def test_packed_files_are_one_zip_for_every_reader(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "packed.zip"
    path.write_bytes(b"".join(piece.data for piece in archive_of([folder])[0].pieces(0)))
    with ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("export/3.png") == PIXELS["3.png"]


def test_large_members_are_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.archive.ZIP64_FROM", 10)
    (tmp_path / "small.png").write_bytes(b"123")
    (tmp_path / "large.png").write_bytes(bytes(range(256)) * 300)
    assert dict(read(archive_of([tmp_path])[0])).popitem() == (f"{tmp_path.name}/small.png", b"123")


def test_what_changes_is_another_archive(folder: Path, stored: Path) -> None:
    before = archive_of([folder])[0].fingerprint
    assert archive_of([folder / "series", folder])[0].fingerprint != before
    assert archive_of([folder])[0].fingerprint == before
    os.utime(folder / "1.png", ns=(1, 1))
    touched = archive_of([folder])[0].fingerprint
    assert touched != before
    as_zip = StoredArchive(stored).fingerprint
    os.utime(stored, ns=(1, 1))
    assert len({before, touched, as_zip, StoredArchive(stored).fingerprint}) == 4


def test_what_cannot_be_sent_says_so(folder: Path, stored: Path, tmp_path: Path) -> None:
    fake, empty, bare = tmp_path / "fake.zip", tmp_path / "empty.zip", tmp_path / "bare"
    fake.write_bytes(b"no ZIP")
    ZipFile(empty, "w").close()
    bare.mkdir()
    for paths, said in (
        ([fake], "cannot be read as a ZIP"),
        ([empty], "no image found"),
        ([bare], "no image found"),
        ([stored, folder], "give it alone"),
    ):
        with pytest.raises(ValueError, match=said):
            archive_of(paths)
    with pytest.raises(FileNotFoundError):
        archive_of([tmp_path / "none.png"])


def test_a_file_that_is_gone_is_an_error_in_the_middle(folder: Path) -> None:
    archive = archive_of([folder])[0]
    (folder / "4.png").unlink()
    with pytest.raises(FileNotFoundError):
        list(archive.pieces(0))


@given(
    st.lists(
        st.sampled_from(["a", ".b", ".", "._c", ".Trashes", "__MACOSX", "DICOMDIR", "Thumbs.db", "c.png", "d\\e", ""]),
        min_size=1,
        max_size=4,
    )
)
def test_the_client_counts_as_the_server_does(parts: list[str]) -> None:
    name = "/".join(parts)
    assert counted(name) is (not is_directory(name) and name != "" and not is_ignored(name))


def test_an_archive_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        PackedArchive([])
