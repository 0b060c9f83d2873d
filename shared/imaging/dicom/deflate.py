"""The dataset of a DICOM file in Deflated Explicit VR Little Endian (PS3.5 A.5), within limits, both ways."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from shared.errors import CorruptImage, ImageTooLarge

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: A dataset may inflate to this, and to so many times the file's size: deflate can do a thousand times.
MAX_INFLATED_BYTES, MAX_RATIO = 64 << 20, 32
_CHUNK = 256 << 10


class _Inflating(io.RawIOBase):
    """The inflated bytes behind `start` of a file; going back begins anew. Memory stays flat."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start
        self._most = MAX_INFLATED_BYTES + MAX_RATIO * file.seek(0, io.SEEK_END)
        self._begin()

    def _begin(self) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._source, self._at, self._left = self._start, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As files have it, but not beyond the end."""
        if whence == io.SEEK_END:
            while self._inflate(_CHUNK):
                pass
            return self._at
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if target < self._at:
            self._begin()
        while self._at < target and self._inflate(min(_CHUNK, target - self._at)):
            pass
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return the next bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._inflate(len(view))
        view[: len(data)] = data
        return len(data)

    def _inflate(self, most: int) -> bytes:
        while not self._inflater.eof:
            if not self._left:
                self._file.seek(self._source)
                self._left = self._file.read(_CHUNK)
                self._source += len(self._left)
                if not self._left:
                    raise CorruptImage("The deflated dataset is truncated.")
            try:
                data = self._inflater.decompress(self._left, most)
            except zlib.error as error:
                raise CorruptImage("The deflated dataset is damaged.") from error
            self._left = self._inflater.unconsumed_tail
            if data:
                self._at += len(data)
                if self._at > self._most:
                    raise ImageTooLarge(f"The deflated dataset inflates to more than {self._most} bytes.")
                return data
        return b""


def inflated(file: BinaryIO) -> BinaryIO:
    """Return the dataset that is deflated from here on in `file`, inflated as it is read.

    Reading raises CorruptImage for damaged data, ImageTooLarge for too many.
    """
    return cast(BinaryIO, io.BufferedReader(_Inflating(file, file.tell()), _CHUNK))


class Deflated(io.RawIOBase):
    """Bytes as they are, then a file's deflated, filled up to an even length. Read once; for one thread."""

    def __init__(self, head: bytes, source: BinaryIO) -> None:
        self._source, self._ready, self._written = source, head, -len(head)
        self._deflater: zlib._Compress | None = zlib.compressobj(wbits=-zlib.MAX_WBITS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return the next bytes; 0 at the end."""
        while not self._ready and self._deflater is not None:
            self._ready = self._deflate(self._deflater)
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready, self._written = self._ready[count:], self._written + count
        return count

    def _deflate(self, deflater: zlib._Compress) -> bytes:
        data = self._source.read(_CHUNK)
        if data:
            return deflater.compress(data)
        last = deflater.flush()
        self._deflater = None
        return last + b"\0" * ((self._written + len(last)) % 2)
