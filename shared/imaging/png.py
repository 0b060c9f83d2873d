"""Plain PNG, by the decoder of Rust's image project (the `png` crate, safe Rust, by way of kornia-rs).

It takes less than half of the time that OpenCV's libpng takes, for the same pixels: grey ones are equal, and of colour
no luma is off by more than one level. But it keeps the interpreter's lock, as long as it takes: a few milliseconds.
What is not plain, and what it refuses, is OpenCV's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from kornia_rs.io import decode_image_png_u8, decode_image_png_u16
from numpy.typing import NDArray

from shared.errors import CorruptImage
from shared.imaging.depth import to_display
from shared.imaging.headers import PNG_SIGNATURE, Header, png_chunks, png_walk

#: Beyond so many bytes of pixels, the interpreter's lock would be kept for too long.
MOST_BYTES = 16_000_000
#: With more threads that decode at once than this, each with a core, they would wait for each other.
MOST_THREADS = 2
IHDR_AT = 16  # of its data: after the signature, a length and a name
GREY, RGB = 0, 2  # colour types, PNG third edition, table 12
Kind = tuple[int, int]
# By bits and colour type: the function, the mode that it knows it by, and bytes per pixel.
_DECODERS: dict[Kind, tuple[Callable[..., Any], str, int]] = {
    (8, GREY): (decode_image_png_u8, "mono", 1),
    (16, GREY): (decode_image_png_u16, "mono", 2),
    (8, RGB): (decode_image_png_u8, "rgb", 3),
}
# Chunks that change no pixel. Not among them: transparency, an orientation (eXIf), frames of an animation.
_SILENT = frozenset({b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME", b"tEXt", b"zTXt", b"iTXt"})
# Those that an RGB or grey decoder heeds; the profile (iCCP) is not among them: display grey has none.
_HEARD = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"eXIf"})
# What these say of brightness, libpng heeds when it makes grey of colour, and not otherwise.
_SILENT_FOR_GREY = _SILENT | {b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD"}


def decode(data: bytes, header: Header, threads: int = 1) -> NDArray[np.uint8]:
    """Decode the display grey (H, W) of a PNG file whose header is within the limits.

    Of an animation, its default picture.

    `threads`: how many of this process decode at once. Raises CorruptImage.
    """
    chunks = png_chunks(data)
    plain = decode_plain(data, chunks) if threads <= MOST_THREADS else None
    if plain is not None:
        return to_display(plain)
    try:
        pixels = np.frombuffer(still(data), np.uint8)
        picture = cv2.imdecode(pixels, cv2.IMREAD_ANYDEPTH if header.bits > 8 else cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:
        raise CorruptImage from error
    if picture is None or picture.ndim != 2:
        raise CorruptImage
    return to_display(picture)


def is_interlaced(data: bytes) -> bool:
    """Whether it comes in seven passes over the picture (PNG, third edition, 8.1)."""
    return data[IHDR_AT + 12 : IHDR_AT + 13] == b"\1"


def still(data: bytes) -> bytes:
    """Return the PNG without its frames of animation, texts and whatever else has no say in the pixels.

    A decoder would show the first frame instead of the default picture (PNG, third edition, 4.9), and inflate texts.
    """
    kept = [data[: len(PNG_SIGNATURE)]]
    kept += [data[chunk.start : chunk.stop] for kind, chunk in png_walk(data) if kind in _HEARD]
    return b"".join(kept)


def decode_plain(data: bytes, chunks: frozenset[bytes]) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
    """Decode the grey (H, W) of a PNG that is whole, has these `chunks`, and is within the limits.

    None for OpenCV to decode.

    8 or 16 bits as the file has; colour is weighted to luma.
    """
    width, height = (int.from_bytes(data[at : at + 4]) for at in (IHDR_AT, IHDR_AT + 4))
    bits, colour, *methods = data[IHDR_AT + 8 : IHDR_AT + 13]
    if (bits, colour) not in _DECODERS or any(methods):  # the last one is interlacing
        return None
    decode, mode, size = _DECODERS[bits, colour]
    if width * height * size > MOST_BYTES or not chunks <= (_SILENT if colour == RGB else _SILENT_FOR_GREY):
        return None
    try:
        picture = decode(data, (height, width), mode)
    except Exception:  # noqa: BLE001 - its errors have no class of their own; OpenCV finds what is wrong
        return None
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if colour == RGB else picture[:, :, 0])
