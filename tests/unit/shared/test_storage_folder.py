"""The folder driver's own promises; what both drivers promise is in tests/integration/shared/test_storage.py."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.config import parse
from shared.errors import StorageError
from shared.storage import FolderStorage, object_key, open_storage
from standalone.process import ROOT
from tests.support.storage import largest_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "objects"


@pytest.fixture
def folder(root: Path) -> FolderStorage:
    storage = FolderStorage(root)
    storage.prepare()
    return storage


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_key_becomes_path(folder: FolderStorage, root: Path) -> None:
    folder.put("tenant/2026/01/31/abc", io.BytesIO(b"pixels"))
    assert files(root) == ["tenant/2026/01/31/abc"]
    assert (root / "tenant/2026/01/31/abc").read_bytes() == b"pixels"


def test_other_users_cannot_read(folder: FolderStorage, root: Path) -> None:
    folder.put("tenant/abc", io.BytesIO(b"pixels"))
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "tenant/abc").stat().st_mode) == 0o600


def test_full_disk_is_a_storage_error_and_leaves_nothing(folder: FolderStorage, root: Path) -> None:
    with largest_file(4_000_000), pytest.raises(StorageError, match="EFBIG"):
        folder.put("tenant/abc", io.BytesIO(bytes(8_000_000)))
    assert files(root) == []


def test_interrupted_put_leaves_nothing(folder: FolderStorage, root: Path) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if not (content := super().read(size)):
                raise KeyboardInterrupt
            return content

    with pytest.raises(KeyboardInterrupt):
        folder.put("tenant/abc", Interrupted(bytes(3_000_000)))
    assert files(root) == []


def test_a_group_that_the_disk_has_no_room_for_leaves_nothing(folder: FolderStorage, root: Path) -> None:
    objects = [(f"tenant/{name}", io.BytesIO(bytes(size))) for name, size in (("a", 10), ("b", 8_000_000), ("c", 10))]
    with largest_file(4_000_000), pytest.raises(StorageError, match="EFBIG"):
        folder.put_many(objects)
    assert files(root) == []


def test_a_key_that_is_none_among_others_leaves_nothing(folder: FolderStorage, root: Path) -> None:
    with pytest.raises(ValueError, match="object key"):
        folder.put_many([("tenant/a", io.BytesIO(b"first")), ("../b", io.BytesIO(b"second"))])
    assert files(root) == []


#: Dies in the middle of the second object; or when both are written and none has its name; or when one has it.
PUT = """
import io, os, signal, sys
from pathlib import Path
from shared.storage import FolderStorage

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Deadly(io.BytesIO):
    def read(self, size=-1):
        content = super().read(min(size, 100_000))
        if sys.argv[2] == "writing" and self.tell() > 300_000:
            die()
        return content

if sys.argv[2] == "naming":
    os.rename = die
if sys.argv[2] == "named":
    rename = os.rename
    os.rename = lambda part, path: die() if path.endswith("b") else rename(part, path)
FolderStorage(Path(sys.argv[1])).put_many([("tenant/a", io.BytesIO(b"a" * 1000)), ("tenant/b", Deadly(b"b" * 400_000))])
"""


@pytest.mark.parametrize(("moment", "there"), [("writing", []), ("naming", []), ("named", ["tenant/a"])])
def test_a_process_that_dies_over_a_group_leaves_whole_objects_only(
    folder: FolderStorage, root: Path, moment: str, there: list[str]
) -> None:
    done = subprocess.run([sys.executable, "-c", PUT, str(root), moment], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [(info.key, info.size) for info in folder.list("")] == [(key, 1000) for key in there]
    parts = list((root / ".incoming").iterdir())
    assert parts
    for part in parts:
        os.utime(part, (time.time() - 25 * 3600,) * 2)
    folder.prepare()
    assert files(root) == there


def test_object_in_the_way_of_a_directory(folder: FolderStorage, root: Path) -> None:
    folder.put("tenant/abc", io.BytesIO(b"first"))
    with pytest.raises(StorageError):
        folder.put("tenant/abc/def", io.BytesIO(b"second"))
    assert files(root) == ["tenant/abc"]


def test_unprepared_folder_is_an_outage_not_a_missing_object(root: Path) -> None:
    storage = FolderStorage(root)
    root.mkdir(parents=True)  # an empty mount point
    with pytest.raises(StorageError):
        storage.check()
    with pytest.raises(StorageError):
        storage.put("tenant/abc", io.BytesIO(b"pixels"))
    with pytest.raises(StorageError):
        storage.get("tenant/abc")
    with pytest.raises(StorageError):
        storage.delete("tenant/abc")
    with pytest.raises(StorageError):
        list(storage.list(""))
    assert files(root) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        FolderStorage(tmp_path / "file" / "objects").prepare()


def test_prepare_removes_parts_of_yesterday_only(folder: FolderStorage, root: Path) -> None:
    for name, hours in (("fresh", 1), ("abandoned", 25)):
        part = root / ".incoming" / name
        part.write_bytes(b"part")
        os.utime(part, (time.time() - hours * 3600,) * 2)
    folder.prepare()
    assert files(root) == [".incoming/fresh"]


def test_parts_are_not_listed(folder: FolderStorage, root: Path) -> None:
    (root / ".incoming" / "part").write_bytes(b"part")
    assert list(folder.list("")) == []


def test_object_deleted_while_listing(folder: FolderStorage) -> None:
    for name in ("a", "b", "c"):
        folder.put(f"tenant/{name}", io.BytesIO(b"pixels"))
    listing = folder.list("tenant/")
    first = next(listing)
    folder.delete("tenant/b")
    assert [first.key, *(info.key for info in listing)] == ["tenant/a", "tenant/c"]


def test_no_presigned_address(folder: FolderStorage) -> None:
    assert folder.presigned_get("tenant/abc", timedelta(minutes=5)) is None
    assert folder.presigned_put("tenant/abc", 1, "0" * 64, timedelta(minutes=5)) is None


def test_object_key_holds_the_tenant_the_day_and_a_sortable_id() -> None:
    before = datetime.now(UTC).date()
    first, second = object_key("tenant_1"), object_key("tenant_1")
    tenant, year, month, day, name = first.split("/")
    assert tenant == "tenant_1"
    assert before <= datetime(int(year), int(month), int(day), tzinfo=UTC).date() <= datetime.now(UTC).date()
    assert len(bytes.fromhex(name)) == 16
    assert first < second


def test_settings_choose_the_folder(root: Path) -> None:
    settings = parse(
        {
            "THORAQ_DATABASE_URL": "postgresql+psycopg://",
            "THORAQ_REDIS_URL": "redis://",
            "THORAQ_SECRET_KEY": "0" * 32,
            "THORAQ_STORAGE_DIR": str(root),
        }
    )
    storage = open_storage(settings)
    storage.prepare()
    storage.put("tenant/abc", io.BytesIO(b"pixels"))
    assert files(root) == ["tenant/abc"]
