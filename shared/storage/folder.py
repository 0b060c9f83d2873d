"""The folder driver: one machine, no service."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from shared.errors import ObjectNotFound, StorageError
from shared.storage.interface import ObjectInfo, SignedPut, Stored, checked, split_prefix
from shared.storage.streams import CHUNK, Body, HashingReader, verified

_ABANDONED_SECONDS = 24 * 3600  # no request body takes a day; MinIO drops unfinished uploads after the same time


class FolderStorage:
    """Objects as files of one folder; the slashes of a key are its directories."""

    #: More wait for each other: they make files in one directory, and spin where they wait for its lock.
    writers = 2

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / ".incoming"  # in the same file system, so that a rename is enough
        self._durable: set[Path] = set()

    def put(self, key: str, source: BinaryIO) -> Stored:
        """Written beside the objects, synced, then renamed into place."""
        path = self._path(key)
        reader = HashingReader(source)
        with _disk_errors(reader):
            descriptor, name = tempfile.mkstemp(dir=self._incoming)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    _copy(reader, file)
                self._publish(Path(name), path)
            except BaseException:  # also when the process is told to stop: a part is of no use to anybody
                Path(name).unlink(missing_ok=True)
                raise
        return reader.stored(key)

    def _publish(self, part: Path, path: Path) -> None:
        try:
            part.rename(path)
        except FileNotFoundError:  # the first object of its directory
            path.parent.mkdir(parents=True, exist_ok=True)
            part.rename(path)
        # The object's own directory has a new name in it. Those above it need syncing once in each process: another
        # process may have made them and not have synced them yet.
        fresh, above = [path.parent], path.parent
        while above != self._root and (above := above.parent) not in self._durable:
            fresh.append(above)
        for directory in fresh:
            _sync(directory)
        # Only now: another thread takes what is noted here, and all above it, for synced.
        self._durable.update(fresh[1:])

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
        """The folder alone proves little: an empty mount point is a folder too."""
        with _disk_errors():
            if not (self._incoming.is_dir() and os.access(self._incoming, os.W_OK)):
                raise StorageError("the object folder is missing, not prepared or read-only")

    def _path(self, key: str) -> Path:
        return self._root / checked(key)


def _copy(reader: io.RawIOBase, file: BinaryIO) -> None:
    while chunk := reader.read(CHUNK):
        file.write(chunk)
    file.flush()
    os.fsync(file.fileno())


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
