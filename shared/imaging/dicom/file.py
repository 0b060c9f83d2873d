"""A DICOM file up to its pixels: where its dataset begins, how it is really encoded, and its elements.

Files come without preamble, without file meta, and with a transfer syntax that is not the one they are written in.
How the dataset is encoded is told by its first element, the rest by its transfer syntax. Sections (PS3.x) are those of
the DICOM standard.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END
from typing import BinaryIO, cast

from pydicom import Dataset
from pydicom.filereader import read_dataset, read_sequence_item
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import VR

from shared.errors import CorruptImage, NoPixelData, ProgramInPreamble, UnsupportedDicom
from shared.imaging.dicom.bounded import BoundedReader, Budget
from shared.imaging.dicom.deflate import inflated
from shared.imaging.dicom.elements import count, invalid, texts
from shared.imaging.dicom.transfer_syntaxes import check_supported

SIGNATURE = b"DICM"
PREAMBLE_BYTES = 128
#: So many bytes from the start of a file tell whether it is DICOM.
START_BYTES = PREAMBLE_BYTES + len(SIGNATURE) + 8
# Windows (PE), Linux (ELF), macOS (Mach-O of both orders and widths, and of several processors), and scripts.
_PROGRAMS = (
    b"MZ", b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf", b"#!",
)  # fmt: skip
_REPRESENTATIONS = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)
#: No element that a dataset begins with is longer; a VR read as part of a length is.
_MOST_FIRST_BYTES = 0x1000
_NATIVE = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
_PIXEL_TAGS = frozenset({0x7FE00010, 0x7FE00009, 0x7FE00008})  # the others are of floating point
_ITEM = 0xFFFEE000
_STRAY_TAGS = frozenset({_ITEM, 0xFFFEE0DD})  # and the end of a sequence
_GROUPS_TAGS = frozenset({0x52009229, 0x52009230})  # shared and per frame: their size goes with the frames
_UNDEFINED_LENGTH = b"\xff\xff\xff\xff"
_DEFER_BYTES = 16 << 20  # an element beyond this is no header; it is skipped instead of read
#: Items that stand where no sequence is; each starts pydicom's reader anew.
_MOST_STRAY_ITEMS = 1000

# pydicom reports what becomes an error of ours anyway, and would quote values of the object.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Header:
    """The elements before the pixels, and the transfer syntax that the dataset is really in.

    `file` stands before the pixels; it is another one than was given where the dataset is deflated, which `syntax` does
    not say: there it is the syntax of what was deflated. `named` is False when the file names none, so that nothing is
    known about a compression.
    """

    file: BinaryIO
    dataset: Dataset
    syntax: UID
    named: bool
    deflated: bool

    @property
    def implicit(self) -> bool:
        return self.dataset.original_encoding[0] is True

    @property
    def order(self) -> str:
        """The byte order, as `struct` writes it."""
        return "<" if self.dataset.original_encoding[1] else ">"


def dataset_start(start: bytes) -> int | None:
    """Where file meta or dataset begin, from the first START_BYTES of a file; None when it is no DICOM.

    Without `DICM` (PS3.10 7.1) the first element has to be one of group 0002 or 0008, in one of the encodings.
    """
    after_preamble = PREAMBLE_BYTES + len(SIGNATURE)
    if start[PREAMBLE_BYTES:after_preamble] == SIGNATURE:
        return after_preamble
    if start.startswith(SIGNATURE):
        return len(SIGNATURE)
    if _is_first_element(start[:8]):
        return 0
    zeros = not any(start[:PREAMBLE_BYTES])
    return PREAMBLE_BYTES if zeros and _is_first_element(start[PREAMBLE_BYTES : PREAMBLE_BYTES + 8]) else None


def _is_first_element(head: bytes) -> bool:
    if len(head) < 8:
        return False
    implicit, little_endian = _encoding(head)
    group, element, length = struct.unpack("<HHI" if little_endian else ">HHI", head)
    fits = head[4:6] in _REPRESENTATIONS if not implicit else length < _MOST_FIRST_BYTES
    return group in (0x0002, 0x0008) and element < 0x1000 and fits


def _encoding(head: bytes) -> tuple[bool, bool]:
    """Whether the element that begins with these 8 bytes is in implicit VR, and whether in little endian.

    Two capitals are a VR, as in pydicom: a length of such bytes would be 16,705 or more. The groups that a dataset
    begins with are below 0100, so their zero byte tells the order.
    """
    capitals = head[4:6].isalpha() and head[4:6].isupper()
    return not capitals, not (head[0] == 0 and head[1] != 0)


def check_preamble(file: BinaryIO) -> None:
    """Refuse a program in the preamble, which is anybody's (PS3.10 7.1): it must not come in as a picture."""
    file.seek(0)
    if file.read(PREAMBLE_BYTES).startswith(_PROGRAMS):
        raise ProgramInPreamble


def read_header(file: BinaryIO, tags: tuple[BaseTag, ...] | None) -> Header:
    """Read the named elements, or all of them, up to the pixel data, whose tag has not been read.

    Values that are too large for a header are skipped.

    Raises NoPixelData, UnsupportedDicom for a transfer syntax that is not read, CorruptImage or InvalidDicom, and
    ImageTooLarge or TooCostly when there is more before the pixels than any header has.
    """
    budget = Budget()
    reader = cast(BinaryIO, BoundedReader(file, budget))
    with budget.refusing():
        reader.seek(0)
        reader.seek(dataset_start(reader.read(START_BYTES)) or 0)
        named = _read_meta(reader)
        deflated = named == DeflatedExplicitVRLittleEndian
        if deflated:
            file = inflated(file)
            reader = cast(BinaryIO, BoundedReader(file, budget))
        at = file.tell()
        size = file.seek(0, SEEK_END)
        file.seek(at)
        head = _peek(reader, 8)
        syntax = _actual_syntax(head, named)
        dataset = _read_elements(reader, _encoding(head), tags, size, budget)
    return Header(file, dataset, syntax, named=named is not None, deflated=deflated)


def _peek(file: BinaryIO, count: int) -> bytes:
    at = file.tell()
    head = file.read(count)
    file.seek(at)
    return head


def _read_meta(file: BinaryIO) -> UID | None:
    """Read the file meta group (PS3.10 7.1), if there is one, and return the transfer syntax that it names."""
    meta = read_dataset(file, False, True, stop_when=_after_meta, defer_size=_DEFER_BYTES)
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise NoPixelData("A DICOMDIR: an index of files, not one of them.")
    syntax = next(iter(texts(meta, "TransferSyntaxUID")), "")
    if not syntax:
        return None
    check_supported(UID(syntax))
    return UID(syntax)


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 0x0002


def _actual_syntax(head: bytes, named: UID | None) -> UID:
    """Find the syntax of the dataset: its first element outweighs what the file meta say of VR and byte order."""
    if len(head) < 8:
        raise NoPixelData
    encoding = _encoding(head)
    if encoding not in _NATIVE:
        raise UnsupportedDicom("A dataset in implicit VR and big endian: no transfer syntax of the standard is so.")
    if named is None or not named.is_encapsulated:
        return _NATIVE[encoding]
    if not encoding[1]:
        raise invalid("TransferSyntaxUID", f"says {named.name}, and the dataset is in big endian")
    return named


def _read_elements(
    file: BinaryIO, encoding: tuple[bool, bool], tags: tuple[BaseTag, ...] | None, size: int, budget: Budget
) -> Dataset:
    """Read to the pixel data, over items that stand where no sequence is: writers leave them behind an empty one."""
    found, stop = Dataset(), _at_groups_pixels_or_item
    found.set_original_encoding(*encoding)
    for _ in range(_MOST_STRAY_ITEMS):
        part = read_dataset(
            file, *encoding, stop_when=stop, defer_size=_DEFER_BYTES,
            specific_tags=None if tags is None else list(tags),
        )  # fmt: skip
        found.update(part)
        found.set_original_encoding(*encoding, part.original_character_set)
        if file.tell() > size:  # the last element was skipped over, beyond the end
            raise CorruptImage("The DICOM object is truncated.")
        if file.tell() == size:
            raise NoPixelData
        tag = _tag(_peek(file, 4), encoding)
        if tag in _PIXEL_TAGS:
            return found
        if tag in _GROUPS_TAGS and stop is _at_groups_pixels_or_item:
            budget.allow_frames(count(found, "NumberOfFrames") or 1)
            stop = _at_pixels_or_item
        _skip_stray(file, encoding)
    raise CorruptImage("The DICOM object has items where no sequence is.")


def _at_groups_pixels_or_item(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _GROUPS_TAGS or tag in _PIXEL_TAGS or tag in _STRAY_TAGS


def _at_pixels_or_item(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS or tag in _STRAY_TAGS


def _tag(head: bytes, encoding: tuple[bool, bool]) -> int:
    group, element = struct.unpack("<HH" if encoding[1] else ">HH", head)
    return int(group << 16 | element)


def _skip_stray(file: BinaryIO, encoding: tuple[bool, bool]) -> None:
    """Pass over an item or a delimiter that stands outside of every sequence; nothing where pydicom has passed it."""
    head = _peek(file, 8)
    tag = _tag(head[:4], encoding)
    if tag == _ITEM and head[4:] == _UNDEFINED_LENGTH:
        read_sequence_item(file, *encoding, "iso8859")
    elif tag in _STRAY_TAGS:
        (length,) = struct.unpack("<I" if encoding[1] else ">I", head[4:])
        file.seek(8 + (length if tag == _ITEM else 0), SEEK_CUR)
