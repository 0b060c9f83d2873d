"""What unpacks the members of a ZIP: a piece goes in, and comes out in pieces that are bounded however small it was."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from typing import Protocol

from shared.errors import CorruptImage

PIECE_BYTES = 65_536
STORED, DEFLATED, BZIP2 = 0, 8, 12
#: Methods that are read. Deflate64, which Windows uses beyond 2 GB, takes a decoder in Python a minute for 6 MB.
READ_METHODS = frozenset({STORED, DEFLATED, BZIP2})


class Decoder(Protocol):
    """Unpacks what it is fed, until `eof`; the last `unused` bytes of what it was fed then are not its own."""

    eof: bool
    unused: int

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Return the pieces that these bytes unpack to; CorruptImage for what is damaged."""


def decoder_of(method: int, packed_size: int | None) -> Decoder:
    """Return what unpacks a member of this method; a stored one must have its size."""
    if method == STORED:
        return Copier(packed_size or 0)
    return Inflater() if method == DEFLATED else Bunzipper()


class Copier:
    """Of what was stored: the bytes are as they are."""

    unused = 0

    def __init__(self, size: int) -> None:
        self._left = size
        self.eof = size == 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        yield packed
        self._left -= len(packed)
        self.eof = self._left == 0


class Inflater:
    """Of what was deflated (RFC 1951)."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self.eof, self.unused = False, 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        more = True
        while more:
            try:
                data = self._inner.decompress(packed, PIECE_BYTES)
            except zlib.error as error:
                raise CorruptImage("It is damaged: it cannot be unpacked.") from error
            yield data
            packed = self._inner.unconsumed_tail
            # A full piece may leave more of it in zlib, though all that went in is used up.
            more = not self._inner.eof and (bool(packed) or len(data) == PIECE_BYTES)
        self.eof, self.unused = self._inner.eof, len(self._inner.unused_data)


class Bunzipper:
    """Of what was packed with bzip2."""

    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()
        self.eof, self.unused = False, 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        while True:
            try:
                data = self._inner.decompress(packed, PIECE_BYTES)
            except OSError as error:
                raise CorruptImage("It is damaged: it cannot be unpacked.") from error
            yield data
            packed = b""
            if self._inner.eof or self._inner.needs_input:
                break
        self.eof, self.unused = self._inner.eof, len(self._inner.unused_data)
