"""Reading of DICOM headers that costs no more than a header may: so many bytes, and so many reads.

An element or an item takes one to three reads of pydicom's, however deep it lies; none of them can be had for less.
Millions of empty ones fit into a small file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_SET, BytesIO
from typing import Any, BinaryIO, cast

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_sequence
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from shared.errors import ImageError, ImageTooLarge, TooCostly

#: More than this before the pixels is an attempt on our memory; functional groups of 2,000 frames are a tenth of it.
MAX_HEADER_BYTES = 64 << 20
#: 20,000 elements or so, ten times what scanners write.
MOST_READS = 60_000
#: What the functional groups of a frame take, and twice as much.
MOST_READS_PER_FRAME = 500
MOST_FRAMES = 2000


class Budget:
    """What may still be read of a header; shared by the readers of its sequences."""

    def __init__(self) -> None:
        self._bytes, self._reads = MAX_HEADER_BYTES, MOST_READS
        self._refusal: ImageError | None = None

    @property
    def bytes_left(self) -> int:
        return self._bytes

    def allow_frames(self, frames: int) -> None:
        """Allow the functional groups of so many frames."""
        self._reads += MOST_READS_PER_FRAME * max(0, min(frames, MOST_FRAMES))

    def spend(self, count: int) -> None:
        """Note one read of so many bytes; raises ImageTooLarge for too many bytes, TooCostly for too many reads."""
        self._bytes -= count
        self._reads -= 1
        if self._bytes < 0:
            self._refusal = ImageTooLarge(f"More than {MAX_HEADER_BYTES} bytes before the pixels.")
        elif self._reads < 0:
            self._refusal = TooCostly("More elements and items before the pixels than any device writes.")
        if self._refusal is not None:
            raise self._refusal

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Raise the refusal that pydicom has made an OSError of, as it does with what a read raises in a sequence."""
        try:
            yield
        except OSError:
            if self._refusal is not None:
                raise self._refusal from None
            raise


class BoundedReader:
    """A file that is read within a budget; seeking costs nothing."""

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        self._file, self._budget = file, budget
        self.tell = file.tell

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; raises what `Budget.spend` does."""
        most = self._budget.bytes_left + 1
        data = self._file.read(most if size < 0 else min(size, most))
        self._budget.spend(len(data))
        return data

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        """As files have it."""
        return self._file.seek(offset, whence)


def read_items(dataset: Dataset, tag: BaseTag, budget: Budget) -> Sequence | None:
    """Read the items of a sequence, which are read the first time within the budget; None for what is no sequence."""
    element: Any = dataset.get_item(tag, keep_deferred=True)
    if isinstance(element, RawDataElement):
        if element.value is None and element.length:
            return None
        value = element.value or b""
        file = cast(BinaryIO, BoundedReader(BytesIO(value), budget))
        encoding = dataset.original_character_set or "iso8859"
        with budget.refusing():
            found = read_sequence(file, element.is_implicit_VR, element.is_little_endian, len(value), encoding)
        dataset[tag] = DataElement(tag, "SQ", found)
        return found
    return element.value if element is not None and isinstance(element.value, Sequence) else None
