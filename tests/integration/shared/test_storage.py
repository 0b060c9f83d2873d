"""What both storage drivers promise: the folder, and the MinIO driver against a real S3 server over HTTP."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from urllib3.exceptions import ProtocolError

from shared.errors import ObjectCorrupt, ObjectNotFound
from shared.storage import FolderStorage, MinioStorage, SeekableObject, Storage, object_key
from tests.support.storage import BLOCK, MIB, generated, settings_of


@pytest.fixture(params=["folder", "s3", "seaweedfs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param != "folder":
        return MinioStorage(settings_of(request.getfixturevalue(request.param)))
    folder = FolderStorage(tmp_path / "objects")
    folder.prepare()
    return folder


@pytest.fixture
def key() -> str:
    return object_key("tenant_1")


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB])
def test_round_trip(storage: Storage, key: str, size: int) -> None:
    content = (BLOCK * (size // len(BLOCK) + 1))[:size]
    stored = storage.put(key, io.BytesIO(content))
    assert (stored.key, stored.size, stored.sha256) == (key, size, hashlib.sha256(content).hexdigest())
    assert storage.get(key) == content
    assert storage.get(key, expect_sha256=stored.sha256) == content


def test_objects_that_are_put_together(storage: Storage) -> None:
    contents = {object_key(f"tenant_{number % 3}"): bytes([number]) * number * 1000 for number in range(70)}
    stored = storage.put_many((key, io.BytesIO(content)) for key, content in contents.items())
    assert [(one.key, one.size) for one in stored] == [(key, len(content)) for key, content in contents.items()]
    assert [one.sha256 for one in stored] == [hashlib.sha256(content).hexdigest() for content in contents.values()]
    assert [storage.get(key) for key in contents] == list(contents.values())
    assert storage.put_many([]) == []


def test_a_source_that_fails_among_others_raises_what_it_raised(storage: Storage) -> None:
    def fail() -> None:
        raise ConnectionResetError

    keys = [object_key("tenant_1") for _ in range(3)]
    sources = [io.BytesIO(b"pixels"), generated(MIB, at_half=fail), io.BytesIO(b"pixels")]
    with pytest.raises(ConnectionResetError):
        storage.put_many(zip(keys, sources, strict=True))
    for key in keys[1:]:
        with pytest.raises(ObjectNotFound):
            storage.get(key)


def test_memory_stays_flat_whatever_the_size(storage: Storage, key: str) -> None:
    size = 64 * MIB
    tracemalloc.start()
    try:
        stored = storage.put(key, generated(size))
        with storage.open(key) as body:
            read = sum(len(chunk) for chunk in iter(lambda: body.read(MIB), b""))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (stored.size, read) == (size, size)
    assert stored.sha256 == hashlib.sha256(BLOCK * (size // len(BLOCK))).hexdigest()
    assert peak < 24 * MIB  # an upload holds three parts of 5 MiB; the object is 64 MiB


def test_reader_never_sees_a_part(storage: Storage, key: str) -> None:
    seen: set[str] = set()

    def look() -> None:
        with pytest.raises(ObjectNotFound):
            storage.get(key)
        seen.update(info.key for info in storage.list(key))

    storage.put(key, generated(12 * MIB, at_half=look))
    assert seen == set()
    assert len(storage.get(key)) == 12 * MIB


def test_writing_again_replaces_the_whole(storage: Storage, key: str) -> None:
    storage.put(key, io.BytesIO(b"old"))
    during: list[bytes] = []
    storage.put(key, generated(12 * MIB, at_half=lambda: during.append(storage.get(key))))
    assert set(during) == {b"old"}
    assert len(storage.get(key)) == 12 * MIB


# What a client's broken connection raises, and what the two drivers themselves take for a failing store.
@pytest.mark.parametrize("error", [ConnectionResetError, ProtocolError])
@pytest.mark.parametrize("size", [1 * MIB, 16 * MIB])
def test_source_that_fails_midway_leaves_nothing(storage: Storage, key: str, size: int, error: type[Exception]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        storage.put(key, generated(size, at_half=fail))
    assert list(storage.list(key)) == []
    with pytest.raises(ObjectNotFound):
        storage.get(key)


def test_missing_object(storage: Storage, key: str) -> None:
    with pytest.raises(ObjectNotFound):
        storage.get(key)
    with pytest.raises(ObjectNotFound):
        storage.open(key)

    with pytest.raises(ObjectNotFound):
        storage.stat(key)
    with pytest.raises(ObjectNotFound):
        storage.read(key, 0, 1)


def test_object_is_described_without_reading_it(storage: Storage, key: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    storage.put(key, io.BytesIO(b"pixels"))
    info = storage.stat(key)
    assert (info.key, info.size, info.sha256) == (key, 6, None)
    assert before <= info.modified <= datetime.now(UTC) + timedelta(seconds=2)


def test_a_part_of_an_object_is_read(storage: Storage, key: str) -> None:
    storage.put(key, io.BytesIO(b"pixels"))
    assert storage.read(key, 2, 3) == b"xel"
    assert storage.read(key, 4, 100) == b"ls"


def test_an_object_is_looked_at_without_fetching_it(storage: Storage, key: str) -> None:
    content = BLOCK * 16
    storage.put(key, io.BytesIO(content))
    fetched: list[int] = []

    def read(offset: int, length: int) -> bytes:
        fetched.append(length)
        return storage.read(key, offset, length)

    with io.BufferedReader(SeekableObject(read, len(content)), 1000) as file:
        assert file.read(10) == content[:10]
        assert file.seek(-5, io.SEEK_END) == len(content) - 5
        assert file.read(10) == content[-5:]
        assert file.seek(500_000) == file.tell() == 500_000
        file.seek(7, io.SEEK_CUR)
        assert file.read(2) == content[500_007:500_009]
        file.seek(len(content) + 10)
        assert file.read(1) == b""
    assert sum(fetched) <= 4000


def test_directory_of_keys_is_no_object(storage: Storage) -> None:
    storage.put("directories/a/b", io.BytesIO(b"pixels"))
    with pytest.raises(ObjectNotFound):
        storage.get("directories/a")
    with pytest.raises(ObjectNotFound):
        storage.stat("directories/a")
    with pytest.raises(ObjectNotFound):
        storage.get("directories/a/b/c")


def test_corrupt_object(storage: Storage, key: str) -> None:
    stored = storage.put(key, io.BytesIO(b"pixels"))
    storage.put(key, io.BytesIO(b"pixelz"))
    with pytest.raises(ObjectCorrupt):
        storage.get(key, expect_sha256=stored.sha256)


def test_delete_twice(storage: Storage, key: str) -> None:
    storage.put(key, io.BytesIO(b"pixels"))
    storage.delete(key)
    storage.delete(key)
    with pytest.raises(ObjectNotFound):
        storage.get(key)


def test_list_by_prefix(storage: Storage, request: pytest.FixtureRequest) -> None:
    started = datetime.now(UTC) - timedelta(seconds=1)  # S3's times may have no fractions
    for name in ("x/1", "x/2/3", "x-1", "x.1", "xy", "y/1"):
        storage.put(f"listed/{name}", io.BytesIO(name.encode()))
    wanted = [f"listed/{name}" for name in ("x-1", "x.1", "x/1", "x/2/3", "xy")]
    listed = [info.key for info in storage.list("listed/x")]
    # SeaweedFS lists what stands below a slash first.
    assert (sorted(listed) if "seaweedfs" in request.node.name else listed) == wanted
    assert [info.key for info in storage.list("listed/x/")] == ["listed/x/1", "listed/x/2/3"]
    assert list(storage.list("listed/none/")) == []
    assert [info.key for info in storage.list("") if info.key.startswith("listed/y")] == ["listed/y/1"]
    (info,) = storage.list("listed/xy")
    assert info.size == 2
    assert started <= info.modified <= datetime.now(UTC)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "a/",
        "./a",
        ".incoming/a",
        "a\\b",
        "a\n",
        "a\0b",
    ],
)
def test_keys_that_could_escape_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="object key"):
        storage.put(key, io.BytesIO(b"pixels"))
    with pytest.raises(ValueError, match="object key"):
        storage.get(key)
    with pytest.raises(ValueError, match="object key"):
        storage.open(key)
    with pytest.raises(ValueError, match="object key"):
        storage.delete(key)
    with pytest.raises(ValueError, match="object key"):
        storage.presigned_get(key, timedelta(minutes=1))
    with pytest.raises(ValueError, match="object key"):
        storage.presigned_put(key, 1, "0" * 64, timedelta(minutes=1))
    with pytest.raises(ValueError, match="object key"):
        storage.stat(key)
    with pytest.raises(ValueError, match="object key"):
        storage.read(key, 0, 1)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../", "../../etc/pass"])
def test_prefixes_that_could_escape_are_refused(storage: Storage, prefix: str) -> None:
    with pytest.raises(ValueError, match="object key"):
        list(storage.list(prefix))


def test_prepare_and_check_again(storage: Storage, key: str) -> None:
    storage.put(key, io.BytesIO(b"pixels"))
    storage.prepare()
    storage.check()
    assert storage.get(key) == b"pixels"


def test_threads_share_a_storage(storage: Storage) -> None:
    contents = {object_key("tenant_1"): bytes([number]) * 100_000 for number in range(20)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: storage.put(item[0], io.BytesIO(item[1])), contents.items()))
        assert list(pool.map(storage.get, contents)) == list(contents.values())
