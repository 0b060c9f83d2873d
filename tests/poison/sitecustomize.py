"""Makes codecs that die: a process with this folder on PYTHONPATH crashes or hangs over files that hold these words.

Only test processes have it there. The words stand behind a picture's end, where no decoder looks.
"""

import os
import signal
import threading

import cv2

CRASH, HANG = b"thoraq: crash", b"thoraq: hang"


def _poisoned(decode):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as OpenCV's own functions
    def call(data, *arguments, **options):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN003, ANN202
        content = data.tobytes()
        if CRASH in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        if HANG in content:
            threading.Event().wait()
        return decode(data, *arguments, **options)

    return call


cv2.imdecode, cv2.imdecodemulti = _poisoned(cv2.imdecode), _poisoned(cv2.imdecodemulti)
