"""Modality and VOI look-up tables (PS3.3 C.11.1 and C.11.2), as devices write them.

Not pydicom's `apply_modality_lut` and `apply_voi_lut`: they know entries of 8 and 16 bits only, keep indices in the
type of the entries, and take the sign of the first mapped value from the stored pixels, rescaled ones too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from shared.imaging.dicom.elements import has_value, invalid, items, representation, words

#: Entries that may be missing: writers count the last value instead of the entries.
_MOST_MISSING = 1
_PARTS = ("LUTDescriptor", "LUTData")


@dataclass(frozen=True)
class LookupTable:
    """Entries for the values from `first` on; below it the first entry holds, beyond the last one the last.

    `first` is a bit pattern of 16 bits: whether it is signed follows from the values that come in. `entries` are the
    words in little endian, so that equal tables are equal.
    """

    first: int
    says_signed: bool
    bits: int
    entries: bytes

    def map(self, values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
        """Look up values; `low` and `high` are the least and the greatest that pixels of the object can have."""
        table = np.frombuffer(self.entries, "<u2")
        indices = np.clip(np.rint(values) - self._first(low, high), 0, table.size - 1).astype(np.int64)
        return np.asarray(table[indices], dtype=np.float64)

    @property
    def white(self) -> int:
        """The output that is white: of the declared bits where the entries use them, else the greatest entry.

        Agfa's CR declares 16 bits for entries of 12, which would be nearly black; Horos, Cornerstone and dicom-rs take
        the greatest entry too.
        """
        greatest = int(np.frombuffer(self.entries, "<u2").max())
        return greatest if greatest and greatest.bit_length() != self.bits else (1 << self.bits) - 1

    def _first(self, low: float, high: float) -> int:
        """Return the first mapped value: signed where values are (PS3.3 C.11.2.1.1), however it was written.

        Where only the other reading has the table and the values overlap, it is that one.
        """
        signed = self.first - (1 << 16) if self.first >= 1 << 15 else self.first
        readings = (signed, self.first) if self.says_signed or low < 0 else (self.first, signed)
        last = len(self.entries) // 2 - 1
        return next((first for first in readings if first <= high and first + last >= low), readings[0])


def first_table(dataset: Dataset, keyword: str) -> LookupTable | None:
    """Return the first table of a sequence that is one.

    Items whose elements are empty are none (LEADTOOLS writes them).

    Raises InvalidDicom for a descriptor or data that make no sense.
    """
    full = (item for item in items(dataset, keyword) if all(has_value(item, part) for part in _PARTS))
    item = next(full, None)
    return None if item is None else _table(item)


def _table(item: Dataset) -> LookupTable:
    descriptor = words(item, "LUTDescriptor")
    if descriptor is None or len(descriptor) != 3:
        raise invalid("LUTDescriptor", "does not have three values")
    count, first, bits = (int(word) for word in descriptor)
    if not 1 <= bits <= 16:
        raise invalid("LUTDescriptor", f"says that entries have {bits} bits; 8 to 16 are allowed")
    entries = _entries(item, count or 1 << 16, bits)
    if (entries == entries[0]).all():
        raise invalid("LUTData", "has the same entry for every value: nothing would be seen")
    return LookupTable(first, representation(item, "LUTDescriptor") == "SS", bits, entries.astype("<u2").tobytes())


def _entries(item: Dataset, count: int, bits: int) -> NDArray[np.integer]:
    """LUT Data are words; entries of 8 bits may be packed into them (PS3.3 C.11.1.1.1)."""
    data = words(item, "LUTData")
    found = 0 if data is None else len(data)
    if data is not None and bits <= 8 and found == (count + 1) // 2 < count:
        return np.frombuffer(data.astype("<u2").tobytes(), np.uint8)[:count]
    if data is None or found < count - _MOST_MISSING or not found:
        raise invalid("LUTData", f"has {found} entries, and LUTDescriptor says {count}")
    return data[:count]
