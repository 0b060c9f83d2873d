"""Files over which the codecs of a process crash or hang that has tests/poison on its PYTHONPATH."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import tifffile
from imagecodecs import lzw_encode

from tests.support.files.images import grey

FOLDER = Path(__file__).parents[2] / "poison"
CRASH, HANG = b"thoraq: crash", b"thoraq: hang"


def picture(extension: str, word: bytes = b"", level: int = 200) -> bytes:
    """A good picture, but for the word behind its end, or behind the end of a TIFF's strip."""
    if extension == ".tif":
        file = BytesIO()
        strip = bytes(lzw_encode(grey(level).tobytes())) + word
        tifffile.imwrite(file, iter([strip]), shape=grey(level).shape, dtype="uint8", compression="lzw")
        return file.getvalue()
    return cv2.imencode(extension, grey(level))[1].tobytes() + word
