"""The pixel data element: where its value lies, and whether it is as long, and cut as the header says (PS3.5, annex A).

A file that contradicts itself here would be answered with shifted, sheared or half pictures, so it is refused.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END
from typing import BinaryIO

from shared.errors import CorruptImage, UnsupportedDicom
from shared.imaging.dicom.elements import element_name, has_value, invalid
from shared.imaging.dicom.file import Header

_PIXEL_DATA = 0x7FE00010
_ITEM, _SEQUENCE_END, _UNDEFINED_LENGTH = 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF
#: Of a compressed object: 2,000 frames of a hundred each. More is an attempt on our memory.
_MOST_FRAGMENTS = 200_000
_LONG_REPRESENTATIONS = frozenset({"OB", "OW", "UN"})


@dataclass(frozen=True)
class PixelData:
    """The value of the pixel data element: bytes from `start` to `end`, with the delimiter of a compressed one.

    `fragments` are the (offset, length) of a compressed value's fragments, the offset as the offset tables count it:
    of the item, from the first item after the basic offset table. `basic_offsets` is that table.
    """

    representation: str
    start: int
    end: int
    encapsulated: bool
    fragments: list[tuple[int, int]]
    basic_offsets: list[int]

    def fragments_like(self, file: BinaryIO, starts: tuple[bytes, ...]) -> int:
        """How many fragments begin with one of the given bytes; `file` is left where it was."""
        at, first, found = file.tell(), self.start + 8 + 4 * len(self.basic_offsets), 0
        for offset, length in self.fragments:
            file.seek(first + offset + 8)
            found += file.read(min(length, 4)).startswith(starts)
        file.seek(at)
        return found


def locate(file: BinaryIO, header: Header) -> PixelData:
    """Read the head of the pixel data element, before which `file` stands, and find the value's end.

    Raises CorruptImage when the value is not all there or not encoded as the transfer syntax says, UnsupportedDicom
    for pixels of floating point.
    """
    representation, length = _enter(file, header)
    start, size = file.tell(), file.seek(0, SEEK_END)
    file.seek(start)
    encapsulated = length == _UNDEFINED_LENGTH
    if encapsulated != header.syntax.is_encapsulated:
        raise _other_encoding(header, encapsulated=encapsulated)
    if not encapsulated:
        if start + length > size:
            raise CorruptImage("The pixel data are truncated.")
        return PixelData(representation, start, start + length, encapsulated, [], [])
    basic_offsets, fragments = _read_fragments(file, size)
    return PixelData(representation, start, file.tell(), encapsulated, fragments, basic_offsets)


def _other_encoding(header: Header, *, encapsulated: bool) -> Exception:
    if not header.named:
        return invalid("TransferSyntaxUID", "is missing, and the pixel data are compressed")
    found = "compressed" if encapsulated else "not compressed"
    return invalid("TransferSyntaxUID", f"says {header.syntax.name}, and the pixel data are {found}")


def _enter(file: BinaryIO, header: Header) -> tuple[str, int]:
    """Read the element's tag, value representation and length."""
    group, element = struct.unpack(header.order + "HH", file.read(4))
    if group << 16 | element != _PIXEL_DATA:
        raise UnsupportedDicom("Pixels of floating point are not read.")
    head = file.read(4)
    representation = head[:2].decode("latin-1")
    if header.implicit or not representation.isalpha():  # some writers change to implicit VR on the way
        (length,) = struct.unpack(header.order + "I", head)
        return "OW", int(length)
    if representation not in _LONG_REPRESENTATIONS:
        raise invalid("PixelData", "has a value representation other than OB and OW")
    (length,) = struct.unpack(header.order + "I", file.read(4))
    return representation, int(length)


def _read_fragments(file: BinaryIO, size: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Walk the items to the delimiter (PS3.5 A.4): some codecs would show half a picture without complaint."""
    table = _enter_item(file, size)
    if table is None:
        raise CorruptImage("The compressed pixel data have no basic offset table.")
    if table % 4:
        raise CorruptImage("The basic offset table is damaged.")
    offsets = list(struct.unpack(f"<{table // 4}I", file.read(table)))
    first, fragments = file.tell(), list[tuple[int, int]]()
    while (length := _enter_item(file, size)) is not None:
        if len(fragments) == _MOST_FRAGMENTS:
            raise CorruptImage(f"The compressed pixel data are in more than {_MOST_FRAGMENTS} fragments.")
        fragments.append((file.tell() - 8 - first, length))
        file.seek(length, SEEK_CUR)
    return offsets, fragments


def _enter_item(file: BinaryIO, size: int) -> int | None:
    """Return the length of the item that begins here; None at the delimiter."""
    head = file.read(8)
    if len(head) == 8:
        group, element, length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return None
        if tag == _ITEM and file.tell() + length <= size:
            return int(length)
    raise CorruptImage("The pixel data are truncated.")


@dataclass(frozen=True)
class Layout:
    """What the header says of the pixels' sizes."""

    rows: int
    columns: int
    samples: int
    bytes_per_sample: int
    frames: int
    subsampled: bool = False

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame; chrominance may be there for every second pixel (PS3.3 C.7.6.3.1.2)."""
        whole = self.rows * self.columns * self.samples * self.bytes_per_sample
        return whole // 3 * 2 if self.subsampled else whole


def check_length(pixels: PixelData, layout: Layout) -> None:
    """Raise unless an uncompressed value is as long as the header says.

    Too few bytes are CorruptImage. Some writers fill up; but with as much as a row or a column of pixels too many,
    the numbers of rows and columns may be wrong, and the picture would be sheared.
    """
    needed, found = layout.frame_bytes * layout.frames, pixels.end - pixels.start
    if found < needed:
        raise CorruptImage("The pixel data are truncated: there are fewer bytes than the header declares.")
    filling = min(layout.rows, layout.columns) * layout.samples * layout.bytes_per_sample
    if found - needed >= max(filling, 2):
        raise invalid(
            "PixelData", f"has {found} bytes, where Rows, Columns, NumberOfFrames and the samples ask for {needed}"
        )


def check_offset_tables(pixels: PixelData, header: Header, frames: int) -> None:
    """Raise unless the offset tables, where there are any, name the first fragments of so many frames, in order."""
    starts = [offset for offset, _ in pixels.fragments]
    if pixels.basic_offsets and not _are_frames(pixels.basic_offsets, starts, frames):
        raise invalid("PixelData", "has a basic offset table that does not fit its fragments or NumberOfFrames")
    if not has_value(header.dataset, "ExtendedOffsetTable"):
        return
    offsets, lengths = (_longs(header, keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    found = dict(pixels.fragments)
    if not _are_frames(offsets, starts, frames) or len(lengths) != len(offsets) or len(starts) != frames:
        raise invalid("ExtendedOffsetTable", "does not fit the fragments of the pixel data or NumberOfFrames")
    # A length may leave out the byte that makes the fragment even (PS3.3 C.7.6.3.1.8).
    if any(not 0 <= found[offset] - length <= 1 for offset, length in zip(offsets, lengths, strict=True)):
        raise invalid("ExtendedOffsetTableLengths", "does not fit the fragments of the pixel data")


def _are_frames(offsets: list[int], starts: list[int], frames: int) -> bool:
    places = [bisect_left(starts, offset) for offset in offsets]
    known = all(place < len(starts) and starts[place] == offset for place, offset in zip(places, offsets, strict=True))
    return known and len(offsets) == frames and offsets[0] == 0 and places == sorted(set(places))


def _longs(header: Header, keyword: str) -> list[int]:
    """Return the value of an element of VR OV."""
    value = header.dataset.get(keyword)
    if not isinstance(value, bytes) or len(value) % 8:
        raise CorruptImage(f"{element_name(keyword)} is missing or damaged.")
    return list(struct.unpack(f"<{len(value) // 8}Q", value))
