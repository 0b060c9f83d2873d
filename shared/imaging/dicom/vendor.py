"""What pydicom warns about and raises, made into nothing and into errors of ours."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import CorruptImage, ImageError


class _Silence:
    """No warnings while any thread is inside.

    Filters of `warnings` belong to the process. The first thread in sets them and the last one out restores them, so
    none restores another's, and none waits while another decodes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def vendor_errors() -> Iterator[None]:
    """Silence pydicom's warnings and make whatever it raises over a damaged object a CorruptImage.

    Its parsers raise ValueError, KeyError, struct.error, AttributeError and more, depending on which byte is wrong,
    so all are caught. A fault of the machine is none of the image and passes: MemoryError, and an OSError with a
    number, for pydicom raises those without one over damaged sequences.
    """
    with _silence:
        try:
            yield
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise CorruptImage("The DICOM object is truncated or damaged.") from error
