"""Changes to DICOM files that a writer would not make, for tests of what readers meet all the same."""

from __future__ import annotations

import struct
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.tag import Tag

from tests.support.files.images import dicom_bytes


def with_elements(**elements: object) -> Dataset:
    """A dataset of these elements, by keyword."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def edited(data: bytes, **elements: object) -> bytes:
    """The file with elements set, or deleted where the value is None."""
    dataset = dcmread(BytesIO(data))
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dicom_bytes(dataset)


def raw_element(data: bytes, keyword: str, value: bytes) -> bytes:
    """The file, in explicit VR little endian, with the bytes of an element of a short VR replaced."""
    tag = Tag(keyword)
    at = data.index(struct.pack("<HH", tag.group, tag.element)) + 6
    (length,) = struct.unpack_from("<H", data, at)
    return data[:at] + struct.pack("<H", len(value)) + value + data[at + 2 + length :]


def says(syntax: str, data: bytes) -> bytes:
    """The file with another transfer syntax in its file meta, and the same dataset."""
    at = data.index(b"\x02\x00\x10\x00UI") + 8
    length = int.from_bytes(data[at - 2 : at], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return data[: at - 2] + len(value).to_bytes(2, "little") + value + data[at + length :]
