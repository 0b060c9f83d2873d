"""A TIFF page by its geometry: sizes, bits, strips or tiles; nothing of it is read from a file here."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import TooCostly

#: Of pixels that tiles hold beyond the picture's edge: so many times the picture's, and a tile of a common size.
MOST_PADDING, ROOM_PIXELS = 4, 1 << 22


class Segment(NamedTuple):
    """A strip or a tile: where its bytes lie, and how many they are."""

    offset: int
    size: int


@dataclass(frozen=True)
class Page:
    """One image file directory: sizes in pixels, `bits` of each sample, the tags' numbers, and its strips or tiles."""

    width: int
    height: int
    bits: int
    samples: int
    compression: int
    photometric: int
    predictor: int
    orientation: int
    planar: bool
    tiled: bool
    segment_size: tuple[int, int]
    #: of numbers of 16 bits: "<" or ">"
    order: str
    #: bits come the lowest first (FillOrder)
    reversed_bits: bool
    # What only decoding needs, and `extents` reads: the tables of tags.JPEG streams, colours (2^bits, 3) and segments.
    jpeg_tables: bytes = b""
    palette: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 3), np.uint8), compare=False)
    segments: tuple[Segment, ...] = ()


def segment_count(page: Page) -> int:
    """How many strips or tiles a page of this geometry has, all planes together."""
    width, height = page.segment_size
    return ceil(page.width / width) * ceil(page.height / height) * (page.samples if page.planar else 1)


def check_padding(page: Page) -> None:
    """Refuse tiles that are many times larger than the picture: they are decoded whole, for a corner of each."""
    if page.width < 1 or page.height < 1:
        return  # the caller's limits say so
    width, height = page.segment_size
    decoded = ceil(page.width / width) * width * ceil(page.height / height) * height
    if decoded > MOST_PADDING * page.width * page.height + ROOM_PIXELS:
        raise TooCostly(f"TIFF tiles of {width} x {height} pixels for a picture of {page.width} x {page.height}.")
