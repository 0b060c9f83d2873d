"""The streams between a driver and its caller: bytes on their way in, hashed; on their way out; and picked out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO

from urllib3.response import BaseHTTPResponse

from shared.errors import ObjectCorrupt
from shared.storage.interface import Stored

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1024 * 1024  # bytes moved at once: few system calls, little memory


class HashingReader(io.RawIOBase):
    """Hashes and counts what passes; remembers what the source raised, which is no fault of the store's."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._size = 0
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return the source's next bytes, at most CHUNK; 0 at its end."""
        view = memoryview(buffer)
        chunk = self._next(min(len(view), CHUNK))
        view[: len(chunk)] = chunk
        return len(chunk)

    def chunks(self) -> Iterator[bytes]:
        """All of the source's bytes, at most CHUNK at a time; for whoever has no buffer to fill."""
        while chunk := self._next(CHUNK):
            yield chunk

    def _next(self, most: int) -> bytes:
        try:
            chunk = self._source.read(most)
        except Exception as error:
            self.failure = error
            raise
        self._hash.update(chunk)
        self._size += len(chunk)
        return chunk

    def stored(self, key: str) -> Stored:
        """Return the account of what has passed."""
        return Stored(key, self._hash.hexdigest(), self._size)


class Body(io.RawIOBase):
    """An object being read, with the store's errors translated at every read."""

    def __init__(self, raw: io.FileIO | BaseHTTPResponse, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._raw = raw
        self._errors = errors

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return the object's next bytes; 0 at its end."""
        with self._errors():
            return self._raw.readinto(memoryview(buffer))

    def close(self) -> None:
        """Close the file, or the connection that has unread bytes on it; one read to its end is in its pool again."""
        self._raw.close()
        super().close()


class SeekableObject(io.RawIOBase):
    """An object of which only what is looked at is fetched: one request a read, so read it through a buffer."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return the object's bytes at the position; 0 at its end."""
        view = memoryview(buffer)
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        chunk = self._read(self._position, length)
        view[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)


def verified(content: bytes, expect_sha256: str | None) -> bytes:
    """Return the content; ObjectCorrupt when a SHA-256 (hexadecimal) is expected and the content has another."""
    if expect_sha256 is not None and hashlib.sha256(content).hexdigest() != expect_sha256:
        raise ObjectCorrupt
    return content
