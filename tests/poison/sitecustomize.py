"""Makes codecs that die: a process with this folder on PYTHONPATH crashes or hangs over files that hold these words.

Only test processes have it there. The words stand behind the end of a picture, or of a strip, where no decoder looks.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import cv2
import imagecodecs
import kornia_rs.io as kornia
import simplejpeg

CRASH, HANG = b"thoraq: crash", b"thoraq: hang"


def _poisoned(decode: Any) -> Any:
    def call(data: Any, *arguments: Any, **options: Any) -> Any:
        content = bytes(data)
        if CRASH in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        if HANG in content:
            threading.Event().wait()
        return decode(data, *arguments, **options)

    return call


cv2.imdecode, imagecodecs.lzw_decode = _poisoned(cv2.imdecode), _poisoned(imagecodecs.lzw_decode)
simplejpeg.decode_jpeg = _poisoned(simplejpeg.decode_jpeg)
kornia.decode_image_png_u8 = _poisoned(kornia.decode_image_png_u8)
