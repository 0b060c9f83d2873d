"""The members of a ZIP in the order of its bytes, read while they come in (APPNOTE.TXT 6.3.10, sections 4.3 and 4.4).

zipfile needs the end of an archive first. stream-unzip, which also reads streams, hides a member's flags and extra
fields, stops for good at the first member that it does not read, and takes an empty member whose size follows it for
one whose end cannot be found; macOS and Info-ZIP write such members. So the records are read here, and zlib and bz2
unpack.

A member's size may only follow its bytes, in a data descriptor. What was deflated ends by itself. What was stored, and
what cannot be unpacked, ends where a descriptor says just how many bytes came before it and another record follows.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from api.batches.zip.byte_source import ByteSource
from api.batches.zip.decompress import DEFLATED, PIECE_BYTES, READ_METHODS, STORED, decoder_of
from shared.errors import CorruptImage, UnreadableArchive, UnreadableMember

LOCAL, CENTRAL, DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
#: What may follow a member: another one, the directory, its end (of an archive without members), encrypted headers.
RECORDS = (LOCAL, CENTRAL, b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x08")
RECORD = re.compile(b"|".join(map(re.escape, RECORDS)))
HEADER = Struct("<4sHHHHHIIIHH")
ENCRYPTED, DESCRIBED, PATCHED, MASKED = 1 << 0, 1 << 3, 1 << 5, 1 << 13
#: Methods that are not read, by their names, for messages (APPNOTE, 4.4.5).
METHODS = {
    1: "Shrink", 6: "Implode", 9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ", 96: "JPEG", 97: "WavPack",
    98: "PPMd", 99: "AES encryption",
}  # fmt: skip
#: Before the first member: the program of a self-extracting archive.
MOST_PREFIX_BYTES = 4_000_000
#: Between members: alignment, and blocks that signing tools put before the directory.
MOST_GAP_BYTES = 100_000
FULL_32 = 0xFFFFFFFF


@dataclass(frozen=True)
class DescriptorForm:
    """One of the ways in which a data descriptor is written (APPNOTE, 4.3.9)."""

    layout: Struct
    signed: bool

    def read(self, head: bytes) -> tuple[int, int, int] | None:
        """Checksum, packed and unpacked size at the beginning of `head`; None where no such descriptor is."""
        if len(head) < self.layout.size:
            return None
        *signature, crc, packed_size, size = self.layout.unpack_from(head)
        return (crc, packed_size, size) if signature in ([], [DESCRIPTOR]) else None


#: With sizes of 8 bytes (ZIP64) or 4, with a signature or without; the longest first.
DESCRIPTORS = (
    DescriptorForm(Struct("<4sIQQ"), signed=True),
    DescriptorForm(Struct("<IQQ"), signed=False),
    DescriptorForm(Struct("<4sIII"), signed=True),
    DescriptorForm(Struct("<III"), signed=False),
)
#: The longest descriptor, and the signature behind it.
TAIL_BYTES = 28


@dataclass(frozen=True)
class Header:
    """A member's local header; sizes are None where they are only known behind its bytes."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int | None
    size: int | None
    offset: int
    extra: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return self.name.endswith(b"/")

    @property
    def unread(self) -> str | None:
        """Why the member cannot be unpacked, as a sentence; None if it can."""
        if self.flags & ENCRYPTED or self.method == 99:
            return "It is encrypted: pack it without a password."
        if self.flags & PATCHED or self.method not in READ_METHODS:
            method = METHODS.get(self.method, f"method {self.method}")
            return f"It is packed with {method}, which is not read: pack it with Deflate, or store it."
        return None


class ZipStream:
    """The members of the archive that consists of `pieces`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._source = ByteSource(pieces)

    def __iter__(self) -> Iterator[tuple[Header, Iterator[bytes]]]:
        """Each member's header, and its bytes in pieces, which are read to their end before the next one comes.

        The pieces end in UnreadableMember or CorruptImage when this member alone cannot be had. UnreadableArchive
        when nothing after it can be found either, BadRequest when the archive ends too early.
        """
        if self._source.peek(4) not in RECORDS:
            self._find_record(MOST_PREFIX_BYTES, (LOCAL,))
        while self._source.peek(4) == LOCAL:
            header = self._header()
            yield header, self._content(header)
            if self._source.peek(4) not in RECORDS:
                self._find_record(MOST_GAP_BYTES)
        self._source.drain()

    def _find_record(self, most: float, kinds: Container[bytes] = RECORDS) -> None:
        """Pass over what is no record of one of the kinds, `most` bytes at most."""
        while most > 0 and len(head := self._source.look(PIECE_BYTES)) > HEADER.size:
            for found in RECORD.finditer(head):
                if found.group() in kinds and _is_plausible(head[found.start() :][: HEADER.size]):
                    self._source.take(found.start())
                    return
            # The end is looked at again, for what begins there is not whole.
            self._source.take(len(head) - HEADER.size)
            most -= PIECE_BYTES
        raise UnreadableArchive("no ZIP record is where the next member or the directory should be")

    def _header(self) -> Header:
        offset = self._source.offset
        _, _, flags, method, _, _, crc, packed_size, size, name_bytes, extra_bytes = HEADER.unpack(
            self._source.take(HEADER.size)
        )
        name, extra = self._source.take(name_bytes), extra_fields(self._source.take(extra_bytes))
        if flags & MASKED:
            raise UnreadableArchive("the archive's directory is encrypted")
        sizes: tuple[int | None, int | None] = _sizes(packed_size, size, extra.get(1, b""))
        # With a descriptor to come, Info-ZIP writes one size and 0 for the other; what was deflated ends by itself.
        if flags & DESCRIBED and (not sizes[0] or method == DEFLATED):
            sizes = None, None
        return Header(name, flags, method, crc, *sizes, offset, extra)

    def _content(self, header: Header) -> Iterator[bytes]:
        if header.unread is not None:
            self._skip(header)
            raise UnreadableMember(header.unread)
        if header.is_directory and header.packed_size is None and self._source.peek(4) in RECORDS:
            return  # some writers announce a descriptor of a directory, and write none
        if header.packed_size is None and header.method == STORED:
            yield from self._checked(header, self._until_descriptor(self._source.offset))
        else:
            yield from self._checked(header, self._unpacked(header))

    def _skip(self, header: Header) -> None:
        start = self._source.offset
        if header.packed_size is None:
            for _ in self._until_descriptor(start, of_stored=False):
                pass
        else:
            self._source.skip(header.packed_size)
        if header.flags & DESCRIBED:
            self._descriptor(self._source.offset - start)

    def _checked(self, header: Header, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the member's bytes; CorruptImage at their end when they are not those of its checksum and sizes."""
        start, size, crc = self._source.offset, 0, 0
        for chunk in chunks:
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
            yield chunk
        packed_size = self._source.offset - start
        said = self._descriptor(packed_size) if header.flags & DESCRIBED else None
        sizes = (packed_size, size) if header.packed_size is None else (header.packed_size, header.size)
        if (said or (header.crc, *sizes)) != (crc, packed_size, size):
            if said is None and header.packed_size is None:
                self._find_record(math.inf)
            raise CorruptImage("The archive holds another checksum or size for it.")

    def _unpacked(self, header: Header) -> Iterator[bytes]:
        """Yield the bytes of a member whose end its header or the packed bytes themselves tell."""
        start = self._source.offset
        try:
            yield from self._decoded(header)
        except CorruptImage:
            if header.packed_size is None:
                self._find_record(math.inf)
            else:
                self._source.skip(start + header.packed_size - self._source.offset)
            raise

    def _decoded(self, header: Header) -> Iterator[bytes]:
        decoder = decoder_of(header.method, header.packed_size)
        left = header.packed_size
        while not decoder.eof and left != 0:
            packed = self._source.some(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
            try:
                yield from decoder.feed(packed)
            except CorruptImage:
                self._source.back(len(packed))  # the member's end may be among them
                raise
            self._source.back(decoder.unused)
            left = None if left is None else left - len(packed) + decoder.unused
        if left or not decoder.eof:
            raise CorruptImage("It is damaged: its bytes end too early, or too late.")

    def _until_descriptor(self, start: int, *, of_stored: bool = True) -> Iterator[bytes]:
        """Yield the bytes up to the descriptor of the member whose bytes began at the offset `start`."""
        while True:
            head, at = self._source.look(PIECE_BYTES), self._source.offset - start
            for record in RECORD.finditer(head):
                before = head[max(record.start() - TAIL_BYTES, 0) : record.start()]
                length = _descriptor_before(before, at + record.start(), of_stored=of_stored)
                if length is not None:
                    yield self._source.take(record.start() - length)
                    return
            self._source.peek(PIECE_BYTES)
            # The end is looked at again, for a descriptor may lie across it.
            yield self._source.take(PIECE_BYTES - TAIL_BYTES)

    def _descriptor(self, packed_size: int) -> tuple[int, int, int] | None:
        """Return what the descriptor behind a member of so many packed bytes says; None if there is none."""
        head = self._source.peek(TAIL_BYTES)
        best, found = 1, None
        for form in DESCRIPTORS:
            said = form.read(head)
            if said is not None:
                signs = (said[1] == packed_size, head[form.layout.size :][:4] in RECORDS, form.signed)
                if sum(signs) > best:
                    best, found = sum(signs), (form, said)
        if found is None:
            return None
        self._source.take(found[0].layout.size)
        return found[1]


def extra_fields(extra: bytes) -> dict[int, bytes]:
    """Return a header's extra fields by their ids; what is no whole field is passed over (APPNOTE, 4.5)."""
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = (int.from_bytes(extra[place : place + 2], "little") for place in (at, at + 2))
        fields.setdefault(kind, extra[at + 4 : at + 4 + length])
        at += 4 + length
    return fields


def _sizes(packed_size: int, size: int, zip64: bytes) -> tuple[int, int]:
    """Packed and unpacked size; those that 32 bits do not hold are in the ZIP64 field (APPNOTE, 4.5.3)."""
    values = [int.from_bytes(zip64[at : at + 8], "little") for at in range(0, len(zip64) - 7, 8)]
    if size == FULL_32 and values:
        size = values.pop(0)
    if packed_size == FULL_32 and values:
        packed_size = values.pop(0)
    return packed_size, size


def _is_plausible(head: bytes) -> bool:
    """Whether the bytes are a record, and do not merely begin like one in a program or in packed bytes."""
    if not head.startswith((LOCAL, CENTRAL)):
        return True
    # The directory has one more version before the one that local headers have.
    at = 4 if head.startswith(LOCAL) else 6
    version, method = (int.from_bytes(head[place : place + 2], "little") for place in (at, at + 4))
    return len(head) == HEADER.size and version & 0xFF <= 63 and (method in METHODS or method in READ_METHODS)


def _descriptor_before(tail: bytes, count: int, *, of_stored: bool) -> int | None:
    """Return the length of the descriptor that ends the member's `count` bytes so far, if it speaks of all others.

    `tail`: the last of these bytes.
    """
    for form in DESCRIPTORS:
        length = form.layout.size
        said = form.read(tail[-length:]) if len(tail) >= length else None
        packed_size = count - length
        if said is not None and said[1] == packed_size and (not of_stored or said[2] == packed_size):
            return length
    return None
