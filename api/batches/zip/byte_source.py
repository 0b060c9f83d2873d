"""Bytes that come in pieces, looked at and taken in whatever lengths a reader needs."""

from __future__ import annotations

from collections.abc import Iterable

from shared.errors import BadRequest


class ByteSource:
    """The bytes of `pieces`, one after the other; BadRequest where more are needed than there are."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = b""
        self._at = 0
        #: bytes that were taken so far
        self.offset = 0

    def look(self, count: int) -> bytes:
        """Return the next bytes without taking them; fewer than `count` only at the end."""
        while len(self._piece) - self._at < count:
            more = next(self._pieces, b"")
            if not more:
                break
            self._piece, self._at = self._piece[self._at :] + more, 0
        return self._piece[self._at : self._at + count]

    def peek(self, count: int) -> bytes:
        """Return the next bytes, all of them, without taking them."""
        found = self.look(count)
        if len(found) < count:
            raise BadRequest("the archive ends too early")
        return found

    def take(self, count: int) -> bytes:
        """Return the next bytes, all of them."""
        found = self.peek(count)
        self._at += count
        self.offset += count
        return found

    def some(self, most: int) -> bytes:
        """At least one byte, as many as are at hand without joining pieces, at most `most`."""
        if self._at == len(self._piece):
            self.peek(1)
        found = self._piece[self._at : self._at + most]
        self._at += len(found)
        self.offset += len(found)
        return found

    def back(self, count: int) -> None:
        """Give back the end of what `some` returned last."""
        self._at -= count
        self.offset -= count

    def skip(self, count: int) -> None:
        """Pass over bytes, all of them, without holding them."""
        while count:
            count -= len(self.some(count))

    def drain(self) -> None:
        """Pass over all that is left."""
        while self.look(1):
            self.some(len(self._piece))
