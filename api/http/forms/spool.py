"""Where the files of a form wait until they are stored: one temporary file for all of them, however many they are.

werkzeug would open one for each and hold half a megabyte of each in memory: ten thousand would be five gigabytes, or
more open files than a process may have.
"""

from __future__ import annotations

import io
from functools import cached_property
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING

from api.http.forms.disk import disk_errors

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: All files of a form together stay in memory up to this size.
MEMORY_BYTES = 500_000


class Spool:
    """The files of one form, written one after the other; closed with the last of them. Not for several threads."""

    def __init__(self) -> None:
        self._open = 0

    @cached_property
    def file(self) -> SpooledTemporaryFile[bytes]:
        """Made for the first file."""
        return SpooledTemporaryFile(MEMORY_BYTES)

    def part(self) -> Part:
        """Return the next file, to be written whole before another one is asked for."""
        self._open += 1
        return Part(self, self.file.seek(0, io.SEEK_END))

    def release(self) -> None:
        """One file is done with."""
        self._open -= 1
        if not self._open:
            self.file.close()


class Part(io.RawIOBase):
    """One file: a stretch of the spool, from `start`."""

    def __init__(self, spool: Spool, start: int) -> None:
        self._spool, self._start = spool, start
        self._size = self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Append to the file."""
        with disk_errors():
            self._spool.file.seek(self._start + self._size)
            written = self._spool.file.write(data)
        self._size += written
        return written

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, all that are left unless told how many."""
        left = max(self._size - self._position, 0)
        self._spool.file.seek(self._start + self._position)
        data = self._spool.file.read(left if size is None or size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._spool.release()
        super().close()
