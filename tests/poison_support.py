"""Files over which the codecs of a process crash or hang that has tests/poison on its PYTHONPATH."""

from __future__ import annotations

from pathlib import Path

import cv2

from tests.factories_imaging import grey

FOLDER = Path(__file__).parent / "poison"
CRASH, HANG = b"thoraq: crash", b"thoraq: hang"


def picture(extension: str, word: bytes = b"", level: int = 200) -> bytes:
    """A good picture, but for the word behind its end."""
    return cv2.imencode(extension, grey(level))[1].tobytes() + word
