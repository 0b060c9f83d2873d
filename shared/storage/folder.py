"""The folder driver: one machine, no service."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import uuid_utils

from shared.errors import ObjectNotFound, StorageError
from shared.storage.interface import ObjectInfo, SignedPut, Stored, checked, split_prefix
from shared.storage.streams import CHUNK, Body, HashingReader, verified

_ABANDONED_SECONDS = 24 * 3600  # no request body takes a day; MinIO drops unfinished uploads after the same time


class FolderStorage:
    """Objects as files of one folder; the slashes of a key are its directories."""

    #: More threads wait for each other: they make files in one directory, and spin where they wait for its lock. What
    #: the disk is waited for once, a sync of the directory, costs a group little more than one object.
    writers, group = 2, 64

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / ".incoming"  # in the same file system, so that a rename is enough
        self._durable: set[Path] = set()

    def put(self, key: str, source: BinaryIO) -> Stored:
        (stored,) = self.put_many([(key, source)])
        return stored

    def put_many(self, objects: Iterable[tuple[str, BinaryIO]]) -> list[Stored]:
        """Written beside the objects, synced, then renamed into place; their directories are synced once for all."""
        parts: list[_Part] = []
        try:
            for key, source in objects:
                reader = HashingReader(source)
                with _disk_errors(reader):
                    # Paths are strings here: of a small object, a Path would cost as much as hashing it.
                    parts.append(_Part(self._incoming, f"{self._root}/{checked(key)}"))
                    parts[-1].write(reader)
                parts[-1].stored = reader.stored(key)
            with _disk_errors():
                for part in parts:
                    part.sync()
                self._publish(parts)
        except BaseException:  # also when the process is told to stop: a part is of no use to anybody
            for part in parts:
                part.discard()
            raise
        return [part.stored for part in parts]

    def _publish(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            part.publish()
        # The objects' own directories have new names in them. Those above need syncing once in each process: another
        # process may have made them and not have synced them yet.
        own = {Path(directory) for directory in {part.path.rpartition("/")[0] for part in parts}}
        new = [path for path in own if path.parent not in self._durable]
        above = {up for path in new for up in path.parents if up.is_relative_to(self._root)} - self._durable
        for directory in own | above:
            _sync(directory)
        # Only now: another thread takes what is noted here, and all above it, for synced.
        self._durable |= above

    def get(self, key: str, expect_sha256: str | None = None) -> bytes:
        with self.open(key) as body:
            return verified(body.read(), expect_sha256)

    def open(self, key: str) -> BinaryIO:
        with _disk_errors():
            return io.BufferedReader(Body(self._file(key), _disk_errors), CHUNK)

    def _file(self, key: str) -> io.FileIO:
        try:
            return io.FileIO(self._path(key))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self.check()  # a volume that is not mounted is an outage, not ten thousand missing objects
            raise ObjectNotFound from None

    def read(self, key: str, offset: int, length: int) -> bytes:
        with _disk_errors(), self._file(key) as file:
            return os.pread(file.fileno(), length, offset)

    def stat(self, key: str) -> ObjectInfo:
        with _disk_errors(), self._file(key) as file:
            return self._described(self._path(key), os.fstat(file.fileno()))

    def delete(self, key: str) -> None:
        """Empty directories stay: removing them would race with a put."""
        path = self._path(key)
        self.check()
        with _disk_errors():
            path.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        directory, stem = split_prefix(prefix)
        start = self._root / directory
        self.check()
        with _disk_errors():
            if start.is_dir():
                yield from self._walk(start, stem)

    def _walk(self, directory: Path, stem: str = "") -> Iterator[ObjectInfo]:
        with os.scandir(directory) as scan:
            entries = [e for e in scan if e.name.startswith(stem) and not e.name.startswith(".")]
        # S3 compares whole keys, where a directory's name goes on with a slash.
        for entry in sorted(entries, key=lambda e: f"{e.name}/" if e.is_dir() else e.name):
            if entry.is_dir():
                yield from self._walk(Path(entry.path))
            elif info := self._info(Path(entry.path)):
                yield info

    def _info(self, path: Path) -> ObjectInfo | None:
        status = _status(path)
        return self._described(path, status) if status else None

    def _described(self, path: Path, status: os.stat_result) -> ObjectInfo:
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return ObjectInfo(path.relative_to(self._root).as_posix(), status.st_size, modified)

    def presigned_get(self, key: str, expires: timedelta) -> str | None:  # noqa: ARG002 - the interface has it
        """None: nobody serves the folder."""
        self._path(key)
        return None

    def presigned_put(self, key: str, size: int, sha256: str, expires: timedelta) -> SignedPut | None:  # noqa: ARG002
        """None: whoever opened the store takes the bytes, and puts them."""
        self._path(key)
        return None

    def prepared(self) -> bool:
        with _disk_errors():
            return self._incoming.is_dir()

    def prepare(self) -> None:
        """Also removes the parts that a killed process left behind a day ago or earlier."""
        with _disk_errors():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of patients: nobody else's to read
            self._incoming.mkdir(exist_ok=True)
            _sync(self._root.parent)
            for part in self._incoming.iterdir():
                if (status := _status(part)) and status.st_mtime < time.time() - _ABANDONED_SECONDS:
                    part.unlink(missing_ok=True)

    def check(self) -> None:
        """Check more than the folder, which alone proves little: an empty mount point is a folder too."""
        with _disk_errors():
            if not (self._incoming.is_dir() and os.access(self._incoming, os.W_OK)):
                raise StorageError("the object folder is missing, not prepared or read-only")

    def _path(self, key: str) -> Path:
        return self._root / checked(key)


class _Part:
    """An object that is written, under a name of its own, before it is renamed to `path`."""

    stored: Stored

    def __init__(self, incoming: Path, path: str) -> None:
        self.path = path
        self._name = f"{incoming}/{uuid_utils.uuid7().hex}"
        self._descriptor = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, reader: HashingReader) -> None:
        """All that the reader gives."""
        for chunk in reader.chunks():
            left = memoryview(chunk)
            while left:
                left = left[os.write(self._descriptor, left) :]
        # Begins to write it out, and waits for nothing: the sync of each part then finds most of its work done.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Return when its bytes are on the disk."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def publish(self) -> None:
        """Give it the object's name."""
        try:
            os.rename(self._name, self.path)  # noqa: PTH104 - as above: no Paths
        except FileNotFoundError:  # the first object of its directory
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            os.rename(self._name, self.path)  # noqa: PTH104

    def discard(self) -> None:
        """Remove it, unless it is the object already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        Path(self._name).unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # renamed or deleted since its directory was read
        return None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(reader: HashingReader | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if reader is not None and error is reader.failure:  # the sender's connection broke, not our disk
            raise
        raise StorageError(f"the object folder failed: {errno.errorcode.get(error.errno or 0, 'unknown')}") from error
