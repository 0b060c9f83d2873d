"""TIFF directories (TIFF 6.0, section 2, and BigTIFF): what each page is, from a few hundred bytes of the file.

Nothing here touches a pixel, so the HTTP edge refuses by it what `tiff_pixels` does not read, by name. Counts are the
sender's: no more values are read than a page of its size has, however many the file announces.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptImage, TooCostly, UnsupportedEncoding
from shared.imaging.headers import read_exactly
from shared.imaging.tiff import tags
from shared.imaging.tiff.page import Page, Segment, check_padding, segment_count

#: More entries than any program writes; the tables of all directories may lie on top of one another.
MOST_ENTRIES = 512
MOST_SAMPLES = 16
MOST_TABLE_BYTES = 1 << 16
# BYTE, SHORT, LONG, UNDEFINED, IFD, LONG8, IFD8
_FORMATS = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}


class Entry(NamedTuple):
    """One entry of a directory: the type of its values, how many, and their bytes or where these are."""

    kind: int
    number: int
    inline: bytes


@dataclass(frozen=True)
class _Layout:
    """How numbers are written: classic TIFF counts and points in 32 bits, BigTIFF in 64."""

    order: str
    offset: str
    entries: str

    @property
    def entry(self) -> str:
        return f"{self.order}HH{self.offset}{struct.calcsize(self.offset)}s"


def pages(file: BinaryIO, max_pages: int, extents: bool) -> list[Page]:
    """Read the directories, at most `max_pages` + 1 of them so that the caller sees that there are too many.

    `extents` also reads the tables of strips and tiles, which decoding needs and a look at the size does not.
    Raises CorruptImage for damaged directories, UnsupportedEncoding for what `tiff_pixels` does not read, and TooCostly
    for tiles that are mostly outside of the picture.
    """
    found: list[Page] = []
    for directory in _directories(file):
        found.append(directory.page(extents))
        if len(found) > max_pages:
            break
    if not found:
        raise CorruptImage("The TIFF file has no page.")
    return found


def _directories(file: BinaryIO) -> Iterator[_Directory]:
    layout, offset = _start(file)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise CorruptImage("The TIFF directories form a ring.")
        seen.add(offset)
        directory, offset = _directory(file, layout, offset)
        yield directory


def _start(file: BinaryIO) -> tuple[_Layout, int]:
    """Read the file's header: how its numbers are written, and where its first directory is."""
    start = read_exactly(file, 8)
    order = "<" if start[:2] == b"II" else ">"
    magic, size, zero = struct.unpack(order + "HHH", start[2:])
    if magic == 42:
        return _Layout(order, "I", "H"), struct.unpack(order + "I", start[4:])[0]
    if (size, zero) != (8, 0):
        raise UnsupportedEncoding(f"A BigTIFF with offsets of {size} bytes; 8 are read.")
    return _Layout(order, "Q", "Q"), struct.unpack(order + "Q", read_exactly(file, 8))[0]


def _directory(file: BinaryIO, layout: _Layout, offset: int) -> tuple[_Directory, int]:
    """Read the directory at an offset, and where the next one is (0: nowhere)."""
    _seek(file, offset)
    head = layout.order + layout.entries
    (count,) = struct.unpack(head, read_exactly(file, struct.calcsize(head)))
    if count > MOST_ENTRIES:
        raise TooCostly(f"A TIFF page has {count} directory entries; at most {MOST_ENTRIES} are read.")
    table = read_exactly(file, struct.calcsize(layout.entry) * count)
    (following,) = struct.unpack(layout.order + layout.offset, read_exactly(file, struct.calcsize(layout.offset)))
    # Readers take the first entry of a tag that is there twice.
    entries = {tag: Entry(*rest) for tag, *rest in reversed(list(struct.iter_unpack(layout.entry, table)))}
    return _Directory(file, layout, entries), following


def _seek(file: BinaryIO, offset: int) -> None:
    try:
        file.seek(offset)
    except (OSError, OverflowError, ValueError) as error:  # beyond what the system can address
        raise CorruptImage("A TIFF offset is beyond the file's end.") from error


@dataclass(frozen=True)
class _Directory:
    """One page's entries, whose values are read when they are asked for."""

    file: BinaryIO
    layout: _Layout
    entries: dict[int, Entry]

    def page(self, extents: bool) -> Page:
        """Put the page together; raises as `pages` does."""
        if tags.WIDTH not in self.entries or tags.HEIGHT not in self.entries:
            raise CorruptImage("A TIFF page does not declare its size.")
        samples = self.one(tags.SAMPLES, 1)
        width, height, compression = (
            self.one(tags.WIDTH, 0),
            self.one(tags.HEIGHT, 0),
            self.one(tags.COMPRESSION, tags.NONE),
        )
        page = Page(
            width=width,
            height=height,
            bits=self._bits(samples, compression),
            samples=samples,
            compression=compression,
            photometric=self.one(tags.PHOTOMETRIC, tags.RGB if samples >= 3 else tags.BLACK_IS_ZERO),
            predictor=self.one(tags.PREDICTOR, 1) if compression in tags.PREDICTED else 1,
            orientation=self.one(tags.ORIENTATION, 1),
            planar=samples > 1 and self._planar(),
            tiled=self._tiled,
            segment_size=self._segment_size(width, height),
            order=self.layout.order,
            reversed_bits=self.one(tags.FILL_ORDER, 1) == 2,
        )
        self._check(page)
        return replace(page, **self._for_decoding(page)) if extents else page

    def _for_decoding(self, page: Page) -> dict[str, Any]:
        more: dict[str, Any] = {"segments": tuple(self._segments(page))}
        if page.photometric == tags.PALETTE:
            more["palette"] = self._palette(page.bits)
        if page.compression == tags.JPEG and tags.JPEG_TABLES in self.entries:
            more["jpeg_tables"] = bytes(self._values(tags.JPEG_TABLES, 0, MOST_TABLE_BYTES))
        return more

    def _palette(self, bits: int) -> NDArray[np.uint8]:
        """Return the colours in 8 bits (TIFF 6.0, section 5): all reds, greens and blues, of 16 bits."""
        colours = np.array(self._values(tags.COLOR_MAP, 0, 3 << bits), np.uint16)
        if len(colours) < 3 << bits:
            raise CorruptImage("A TIFF palette has fewer colours than its depth needs.")
        # Old writers put 8 bits there; libtiff tells them by the same sign.
        eight = colours if colours.max() < 256 else colours >> 8
        return np.ascontiguousarray(eight.astype(np.uint8).reshape(3, -1).T)

    @property
    def _tiled(self) -> bool:
        return tags.TILES[0] in self.entries or tags.TILE_WIDTH in self.entries

    def _planar(self) -> bool:
        value = self.one(tags.PLANAR, 1)
        if value not in (1, 2):
            raise CorruptImage(f"A TIFF page has PlanarConfiguration {value}; it is 1 or 2.")
        return value == 2

    def _bits(self, samples: int, compression: int) -> int:
        """Bits of each sample, which must be the same for all."""
        if not 1 <= samples <= MOST_SAMPLES:
            raise UnsupportedEncoding(f"TIFF with {samples} samples per pixel; 1 to {MOST_SAMPLES} are read.")
        bits = self._values(tags.BITS, 1, MOST_SAMPLES)[:samples]
        if len(set(bits)) > 1:
            raise UnsupportedEncoding(f"TIFF samples of unequal depth: {', '.join(map(str, bits))} bits.")
        formats = self._values(tags.SAMPLE_FORMAT, 1, MOST_SAMPLES)[:samples]
        for one in formats:
            if one not in tags.UNSIGNED:
                name = tags.REFUSED_SAMPLE_FORMATS.get(one, one)
                raise UnsupportedEncoding(f"TIFF samples are {name}; unsigned integers are read.")
        if bits[0] not in tags.DEPTHS or (compression in tags.PICTURES and bits[0] not in (8, 16)):
            raise UnsupportedEncoding(f"TIFF samples of {bits[0]} bits with compression {name_of(compression)}.")
        return bits[0]

    def _segment_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a tile, or of a strip."""
        if self._tiled:
            tile = self.one(tags.TILE_WIDTH, 0), self.one(tags.TILE_HEIGHT, 0)
            if min(tile) < 1:
                raise CorruptImage("A TIFF page has tiles without pixels.")
            return tile
        return width, max(1, min(self.one(tags.ROWS_PER_STRIP, height), height))

    def _check(self, page: Page) -> None:
        """Refuse by name what is not read."""
        if page.compression not in tags.COMPRESSIONS:
            raise UnsupportedEncoding(f"TIFF compression {name_of(page.compression)} is not read.")
        if page.photometric not in tags.COLOURS:
            name = tags.OTHER_COLOURS.get(page.photometric, "unknown")
            raise UnsupportedEncoding(f"TIFF PhotometricInterpretation {page.photometric} ({name}) is not read.")
        if page.samples < tags.COLOURS[page.photometric]:
            raise CorruptImage("A TIFF page has fewer samples than its PhotometricInterpretation needs.")
        self._check_colour(page)
        if page.predictor not in (1, 2) or (page.predictor == 2 and page.bits not in (8, 16)):
            raise UnsupportedEncoding(f"TIFF Predictor {page.predictor} with {page.bits} bits is not read.")
        if self.one(tags.IMAGE_DEPTH, 1) != 1:
            raise UnsupportedEncoding("TIFF volumes (ImageDepth) are not read.")
        if not 1 <= page.orientation <= 8:
            raise CorruptImage(f"A TIFF page has Orientation {page.orientation}; it is 1 to 8.")
        if self.one(tags.FILL_ORDER, 1) not in (1, 2):
            raise CorruptImage("A TIFF page has a FillOrder other than 1 and 2.")
        check_padding(page)

    def _check_colour(self, page: Page) -> None:
        if page.compression == tags.JPEG and (page.bits != 8 or (page.samples not in (1, 3) and not page.planar)):
            raise UnsupportedEncoding(f"TIFF JPEG of {page.samples} samples of {page.bits} bits is not read.")
        if page.compression == tags.LERC and self._values(tags.LERC_PARAMETERS, 0, 2)[-1] != 0:
            raise UnsupportedEncoding("TIFF LERC that is compressed once more is not read.")
        if page.photometric == tags.YCBCR and (page.planar or page.compression != tags.JPEG):
            plain = self._values(tags.SUBSAMPLING, 2, 2) == (1, 1) and tags.REFERENCE_BLACK_WHITE not in self.entries
            if not plain or page.bits != 8 or page.compression in tags.PICTURES:
                raise UnsupportedEncoding("TIFF YCbCr that is subsampled or has a reference range, without JPEG.")
        if page.photometric == tags.CMYK and (page.compression in tags.PICTURES or self.one(tags.INK_SET, 1) != 1):
            raise UnsupportedEncoding("TIFF inks other than CMYK, or CMYK in JPEG.")
        if page.photometric == tags.PALETTE and (page.bits > 8 or page.compression in tags.PICTURES):
            raise UnsupportedEncoding(f"TIFF palette with {page.bits} bits, compression {name_of(page.compression)}.")

    def _segments(self, page: Page) -> Iterator[Segment]:
        """Yield the strips or tiles that the page must have, row by row, plane by plane."""
        # Some writers put the offsets of tiles where those of strips belong; libtiff reads them.
        pair = tags.TILES if tags.TILES[0] in self.entries else tags.STRIPS
        needed = segment_count(page)
        tables = [self._values(tag, 0, needed) if tag in self.entries else () for tag in pair]
        found = min(map(len, tables))
        if found < needed:
            raise CorruptImage(f"A TIFF page has {found} of the {needed} strips or tiles of its size.")
        yield from map(Segment, *tables)

    def one(self, tag: int, default: int) -> int:
        """Return the first value of an entry, or the default where there is none."""
        return self._values(tag, default, 1)[0]

    def _values(self, tag: int, default: int, most: int) -> tuple[int, ...]:
        """Return the first values of an entry, `most` of them; twice the default where there is no such entry."""
        if tag not in self.entries:
            return (default,) * min(most, 2)
        kind, count, inline = self.entries[tag]
        if kind not in _FORMATS or count < 1:
            raise CorruptImage(f"The TIFF directory entry {tag} is damaged.")
        layout = f"{self.layout.order}{min(count, most)}{_FORMATS[kind]}"
        size = struct.calcsize(layout)
        if count * struct.calcsize(_FORMATS[kind]) <= len(inline):
            return struct.unpack(layout, inline[:size])
        _seek(self.file, struct.unpack(self.layout.order + self.layout.offset, inline)[0])
        return struct.unpack(layout, read_exactly(self.file, size))


def orientation(file: BinaryIO) -> int:
    """Return the Orientation of the first directory, which is how EXIF says it; 1 when it says none.

    Raises CorruptImage.
    """
    layout, offset = _start(file)
    directory, _ = _directory(file, layout, offset)
    value = directory.one(tags.ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def name_of(compression: int) -> str:
    """Return the compression's name and number, for an error."""
    name = tags.COMPRESSIONS.get(compression) or tags.REFUSED_COMPRESSIONS.get(compression) or "unknown"
    return f"{compression} ({name})"
