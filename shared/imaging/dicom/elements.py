"""Values of DICOM elements as numbers and words, and errors that name the element by keyword and tag.

Values are taken as they stand in the file: pydicom's own conversion raises errors that name no element, and decides
between signed and unsigned by an element that functional groups do not have. No error quotes a value.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from shared.errors import ImageError, InvalidDicom
from shared.imaging.dicom.bounded import Budget, read_items

# A decimal comma, as systems in most of Europe write it into a DS against PS3.5 6.2. No digit groups: 1,024.5 is none.
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")

#: Of an element of text or numbers; a window for each of a thousand looks would be less.
_MOST_TEXT_BYTES = 1 << 15


def element_name(keyword: str) -> str:
    """Return the element as errors name it: `WindowCenter (0028,1050)`."""
    tag = Tag(keyword)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def invalid(keyword: str, what: str) -> InvalidDicom:
    """Return the error that says what is wrong with an element."""
    return InvalidDicom(f"{element_name(keyword)} {what}.")


def has_value(dataset: Dataset, keyword: str) -> bool:
    """Return True if the element is there and not empty."""
    return _value(dataset, keyword) is not None


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """Return the values of an element of text or numbers, without the spaces around them; none for an empty element."""
    value = _value(dataset, keyword)
    if value is None:
        return []
    if isinstance(value, bytes):
        if len(value) > _MOST_TEXT_BYTES:
            raise invalid(keyword, "is longer than any value that is read")
        return [part.strip(" \0\t\r\n") for part in value.decode("latin-1").split("\\")]
    several = value if isinstance(value, MultiValue | list | tuple) else [value]
    return ["" if one is None else str(one).strip() for one in several]


def text(dataset: Dataset, keyword: str) -> str:
    """Return the first value of an element of text, in capitals, as the defined terms are; "" when there is none."""
    return next(iter(texts(dataset, keyword)), "").upper()


def decimals(dataset: Dataset, keyword: str) -> list[float]:
    """Return the values of a decimal string (DS); InvalidDicom for what is no finite number.

    Empty values are left out.
    """
    return [_decimal(value, keyword) for value in texts(dataset, keyword) if value]


def decimal(dataset: Dataset, keyword: str) -> float | None:
    """Return the value of a DS that has one value; None when it is missing, InvalidDicom for several that differ."""
    values = set(decimals(dataset, keyword))
    if len(values) > 1:
        raise invalid(keyword, "has several values, where one is allowed")
    return values.pop() if values else None


def count(dataset: Dataset, keyword: str) -> int | None:
    """Return the value of an integer string (IS); None when it is missing."""
    value = decimal(dataset, keyword)
    if value is not None and not value.is_integer():
        raise invalid(keyword, "is not a whole number")
    return None if value is None else int(value)


def unsigned(dataset: Dataset, keyword: str) -> int:
    """Return the value of a required unsigned short (US); InvalidDicom when it is missing, or not one number."""
    values = words(dataset, keyword)
    if values is None:
        raise invalid(keyword, "is missing")
    if len(values) == 0 or (values != values[0]).any():
        raise invalid(keyword, "is not one number")
    return int(values[0])


def words(dataset: Dataset, keyword: str) -> NDArray[np.uint16] | None:
    """Return the value's words of 16 bits, signed ones as their bit patterns; None when there is no value."""
    value = _value(dataset, keyword)
    if value is None:
        return None
    if isinstance(value, bytes):
        if len(value) % 2:
            raise invalid(keyword, "is not made of words of 16 bits")
        return np.frombuffer(value, "<u2" if _is_little_endian(dataset, keyword) else ">u2").astype(np.uint16)
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.int64))
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(keyword, "is not a number") from error
    return (numbers & 0xFFFF).astype(np.uint16)


def items(dataset: Dataset, keyword: str) -> Sequence:
    """Return the items of a sequence; none when it is missing, InvalidDicom when it cannot be read.

    Raises TooCostly for more elements than any device writes.
    """
    if Tag(keyword) not in dataset:
        return Sequence()
    budget = Budget()
    if keyword == "PerFrameFunctionalGroupsSequence":
        budget.allow_frames(count(dataset, "NumberOfFrames") or 1)
    try:
        return read_items(dataset, Tag(keyword), budget) or Sequence()
    except ImageError:
        raise
    except Exception as error:  # which one, depends on the byte that is wrong
        raise invalid(keyword, "is no sequence that can be read") from error


def representation(dataset: Dataset, keyword: str) -> str | None:
    """Return the value representation that the file gives; None in implicit VR."""
    item: Any = dataset.get_item(Tag(keyword), keep_deferred=True)
    return None if item is None or item.VR is None else str(item.VR)


def _decimal(value: str, keyword: str) -> float:
    try:
        number = float(value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value) else value)
    except ValueError as error:
        raise invalid(keyword, "is not a number") from error
    if not math.isfinite(number):
        raise invalid(keyword, "is not a finite number")
    return number


def _value(dataset: Dataset, keyword: str) -> Any:
    """Return the element's value, its bytes where it has not been converted yet; None for a missing or empty one."""
    item: Any = dataset.get_item(Tag(keyword), keep_deferred=True)
    if item is None:
        return None
    if isinstance(item, RawDataElement) and item.value is None and item.length:
        raise invalid(keyword, "is longer than any value that is read")
    return None if item.value is None or _is_empty(item.value) else item.value


def _is_empty(value: Any) -> bool:
    return hasattr(value, "__len__") and len(value) == 0


def _is_little_endian(dataset: Dataset, keyword: str) -> bool:
    item: Any = dataset.get_item(Tag(keyword), keep_deferred=True)
    if isinstance(item, RawDataElement):
        return item.is_little_endian
    return dataset.original_encoding[1] is not False
