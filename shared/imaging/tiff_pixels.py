"""TIFF pixels: strips and tiles to display grey, by imagecodecs' decoders (BSD) under our own count of what they give.

OpenCV's TIFF reader, which was here before, took planar pictures for interleaved ones, showed memory that it had not
filled, and made black pictures of compressions that it does not know. Here a strip or tile that is not all there is an
error, whichever codec it was given to. libtiff's rules are followed where the specification is silent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, cast

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptImage, ImageError
from shared.imaging import jpeg
from shared.imaging.depth import orient, to_display
from shared.imaging.tiff import tags as tiff_tags
from shared.imaging.tiff.page import Page, Segment
from shared.imaging.tiff.reader import name_of

#: What strips and tiles may decode to beyond their size: writers pad the last strip, and codecs their last block.
SLACK_BYTES = 1 << 16
_BYTES_DECODERS: dict[int, Callable[..., bytes | bytearray]] = {
    tiff_tags.LZW: imagecodecs.lzw_decode,
    tiff_tags.PACKBITS: imagecodecs.packbits_decode,
    34925: imagecodecs.lzma_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}
_PICTURE_DECODERS: dict[int, Callable[..., NDArray[Any]]] = {
    **dict.fromkeys(tiff_tags.JPEG_2000, imagecodecs.jpeg2k_decode),
    34927: imagecodecs.webp_decode,
    50001: imagecodecs.webp_decode,
    50002: imagecodecs.jpegxl_decode,
    52546: imagecodecs.jpegxl_decode,
}


def frames(data: bytes, pages: list[Page]) -> Iterator[NDArray[np.uint8]]:
    """Yield the display grey (H, W) of each page; its segments must have been read. Raises CorruptImage."""
    for page in pages:
        grey = _grey(_samples(data, page), page)
        yield orient(255 - grey if page.photometric == tiff_tags.WHITE_IS_ZERO else grey, page.orientation)


def _samples(data: bytes, page: Page) -> NDArray[Any]:
    """Decode every strip or tile into the page's samples (H, W, C), uint8 or uint16: those that make its colour."""
    colours = tiff_tags.COLOURS[page.photometric]
    canvas = np.empty((page.height, page.width, colours), np.uint8 if page.bits <= 8 else np.uint16)
    across, down = (ceil(side / step) for side, step in zip((page.width, page.height), page.segment_size, strict=True))
    step_x, step_y = page.segment_size
    for number, segment in enumerate(page.segments):
        plane, place = divmod(number, across * down)
        if plane >= colours:
            break
        x, y = place % across * step_x, place // across * step_y
        part = canvas[y : y + step_y, x : x + step_x]
        decoded = _decoded(data, page, segment, rows=step_y if page.tiled else len(part))
        target = part[:, :, plane : plane + 1] if page.planar else part
        target[:] = decoded[: part.shape[0], : part.shape[1], : target.shape[2]]
    return canvas


def _decoded(data: bytes, page: Page, segment: Segment, rows: int) -> NDArray[Any]:
    """One strip or tile of so many rows, (rows, width, samples). Raises CorruptImage when it is not all there."""
    if segment.size < 1 or segment.offset < 8:
        raise CorruptImage("A strip or tile of the TIFF page is missing.")
    if segment.offset + segment.size > len(data):
        raise CorruptImage("The TIFF file is truncated.")
    encoded = data[segment.offset : segment.offset + segment.size]
    try:
        decoded = (_picture if page.compression in tiff_tags.PICTURES else _packed)(encoded, page, rows)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # the codecs' errors have no class in common
        raise CorruptImage(f"A strip or tile of the TIFF page is damaged ({name_of(page.compression)}).") from error
    samples = 1 if page.planar else page.samples
    least = min(rows, page.height), min(page.segment_size[0], page.width)
    if decoded.ndim != 3 or decoded.shape[2] < samples or decoded.shape[0] < least[0] or decoded.shape[1] < least[1]:
        raise CorruptImage("A strip or tile of the TIFF page does not have the size that its header says.")
    return decoded


def _packed(encoded: bytes, page: Page, rows: int) -> NDArray[Any]:
    """Unpack samples that are stored as rows of bits, whatever packs the bytes."""
    if page.reversed_bits:
        encoded = bytes(imagecodecs.bitorder_decode(encoded))
    width, samples = page.segment_size[0], 1 if page.planar else page.samples
    row_bytes = (width * samples * page.bits + 7) // 8
    unpacked = _unpacked(encoded, page, row_bytes * page.segment_size[1])
    if len(unpacked) < rows * row_bytes:
        raise CorruptImage("A strip or tile of the TIFF page is cut short.")
    unpacked = unpacked[: rows * row_bytes]
    if page.bits in (8, 16):
        values = np.frombuffer(unpacked, f"{page.order}u{page.bits // 8}").astype(f"u{page.bits // 8}", copy=False)
    else:
        kind = "uint8" if page.bits < 8 else "uint16"
        values = imagecodecs.packints_decode(unpacked, kind, page.bits, runlen=width * samples)
    decoded = values.reshape(rows, width, samples)
    # Differences wrap around at the samples' width (TIFF 6.0, section 14), as NumPy's integers do.
    return np.cumsum(decoded, axis=1, dtype=decoded.dtype) if page.predictor == 2 else decoded


def _unpacked(encoded: bytes, page: Page, size: int) -> bytes:
    """At most about `size` bytes, or fewer where the strip has no more."""
    if page.compression == tiff_tags.NONE:
        return encoded
    if page.compression in tiff_tags.DEFLATES:
        return zlib.decompressobj().decompress(encoded, size)
    return bytes(_BYTES_DECODERS[page.compression](encoded, out=size + SLACK_BYTES))


def _picture(encoded: bytes, page: Page, _rows: int) -> NDArray[Any]:
    """Decode samples that a codec of pictures has compressed."""
    if page.compression == tiff_tags.JPEG:
        decoded: NDArray[Any] = _jpeg(encoded, page)
    elif page.compression == tiff_tags.LERC:
        valid: NDArray[Any] | None  # None where all are
        decoded, valid = cast(Any, imagecodecs.lerc_decode(encoded, masks=True))
        if valid is not None and not valid.all():
            raise CorruptImage("A tile of the TIFF page leaves pixels out (LERC's mask).")
    else:
        decoded = _PICTURE_DECODERS[page.compression](encoded)
    if decoded.dtype != (np.uint8 if page.bits <= 8 else np.uint16):
        raise CorruptImage("A strip or tile of the TIFF page does not have the depth that its header says.")
    return decoded if decoded.ndim == 3 else decoded[:, :, np.newaxis]


def _jpeg(encoded: bytes, page: Page) -> NDArray[np.uint8]:
    """Return a JPEG stream, with the tables that all of the page's streams share (TIFF Technical Note 2)."""
    whole = page.jpeg_tables[:-2] + encoded[2:] if page.jpeg_tables else encoded
    if page.planar or page.samples == 1:
        return jpeg.decode_stream(whole, "GRAY")
    return jpeg.decode_stream(jpeg.with_transform(whole, int(page.photometric == tiff_tags.YCBCR)), "RGB")


def _grey(samples: NDArray[Any], page: Page) -> NDArray[np.uint8]:
    """Return the samples' brightness in 8 bits."""
    match page.photometric:
        case tiff_tags.PALETTE:
            return _luma(page.palette[samples[:, :, 0]], 8)
        case tiff_tags.CMYK:
            eight = samples if page.bits == 8 else np.dstack([to_display(ink, page.bits) for ink in cv2.split(samples)])
            white = 255 - eight.astype(np.uint16)
            return _luma((white[:, :, :3] * white[:, :, 3:] // 255).astype(np.uint8), 8)
        case tiff_tags.RGB:
            return _luma(samples, page.bits)
        case tiff_tags.YCBCR if page.compression == tiff_tags.JPEG:
            return _luma(samples, page.bits)
        case _:  # the first of YCbCr is the brightness
            return to_display(np.ascontiguousarray(samples[:, :, 0]), page.bits)


def _luma(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return to_display(cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY), bits)
