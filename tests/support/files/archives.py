"""ZIPs as other programs write them, record by record: zipfile writes only its own kind (APPNOTE.TXT 6.3.10, 4.3)."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack

#: How a data descriptor is written: nothing is known before it; `unwritten` is announced and left out.
SIGNED, BARE, SIGNED64, BARE64, UNWRITTEN = "signed", "bare", "signed64", "bare64", "unwritten"
STORED, DEFLATED, BZIP2 = 0, 8, 12


@dataclass(frozen=True)
class Part:
    """A member of an archive, and how it is written."""

    name: bytes
    content: bytes = b""
    method: int = DEFLATED
    described: str | None = None
    flags: int = 0
    extra: bytes = b""
    mode: int = 0o100644
    #: instead of what the method makes of the content
    packed: bytes | None = None
    crc: int | None = None
    #: sizes that a ZIP64 field holds, as for members of 4 GB and more
    zip64: bool = False
    listed: bool = True
    #: the unpacked size stands in the header though a descriptor follows, as Info-ZIP writes it into a pipe
    size_known: bool = False

    @property
    def bytes(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method == DEFLATED:
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return deflate.compress(self.content) + deflate.flush()
        return bz2.compress(self.content) if self.method == BZIP2 else self.content

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.content) if self.crc is None else self.crc


def archive(*parts: Part, prefix: bytes = b"", gap: bytes = b"", comment: bytes = b"") -> bytes:
    """An archive of the members; `gap` stands before its directory."""
    body, directory = prefix, b""
    for part in parts:
        offset = len(body)
        body += _local(part)
        directory += _central(part, offset) if part.listed else b""
    body += gap
    count = sum(part.listed for part in parts)
    end = pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), len(comment))
    return body + directory + end + comment


def _local(part: Part) -> bytes:
    packed = part.bytes
    flags = part.flags | (8 if part.described else 0)
    known = (part.checksum, len(packed), len(part.content))
    if part.described:
        known = (0, 0, known[2] if part.size_known else 0)
    extra = part.extra
    if part.zip64:
        extra += pack("<HHQQ", 1, 16, known[2], known[1])
        known = (known[0], 0xFFFFFFFF, 0xFFFFFFFF)
    head = pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, flags, part.method, 0, 33, *known, len(part.name), len(extra))
    return head + part.name + extra + packed + _descriptor(part, len(packed))


def _descriptor(part: Part, packed_size: int) -> bytes:
    said = (part.checksum, packed_size, len(part.content))
    forms = {
        SIGNED: lambda: pack("<4sIII", b"PK\x07\x08", *said),
        BARE: lambda: pack("<III", *said),
        SIGNED64: lambda: pack("<4sIQQ", b"PK\x07\x08", *said),
        BARE64: lambda: pack("<IQQ", *said),
    }
    return forms[part.described]() if part.described in forms else b""


def _central(part: Part, offset: int) -> bytes:
    flags = part.flags | (8 if part.described else 0)
    sizes = (part.checksum, len(part.bytes), len(part.content))
    fields = (flags, part.method, 0, 33, *sizes, len(part.name), len(part.extra), 0, 0, 0, part.mode << 16, offset)
    return pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 0x314, 20, *fields) + part.name + part.extra


def unicode_path(raw: bytes, name: str) -> bytes:
    """Info-ZIP's extra field with a name in UTF-8 beside one in a code page (APPNOTE, 4.6.9)."""
    content = pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    return pack("<HH", 0x7075, len(content)) + content


def in_pieces(body: bytes, size: int) -> Sequence[bytes]:
    """The body in pieces of a size."""
    return [body[at : at + size] for at in range(0, len(body), size)]
