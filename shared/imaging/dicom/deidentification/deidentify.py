"""A DICOM file on its way into the store: another header, de-identified or as it was, before the same pixels.

The pixels are passed through, not read into memory, and what stands behind them is left off: trailing padding, digital
signatures, and the private groups that come last. Text that is burned into the pixels stays there.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from shared.imaging.dicom.deflate import Deflated
from shared.imaging.dicom.deidentification import profile
from shared.imaging.dicom.file import PREAMBLE_BYTES, SIGNATURE, Header, read_header
from shared.imaging.dicom.pixel_data import PixelData, locate
from shared.imaging.dicom.vendor import vendor_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Where the value of (0002,0000) stands, the length of the rest of its group (PS3.10 7.1).
_GROUP_LENGTH_AT = PREAMBLE_BYTES + len(SIGNATURE) + 8
METHOD = f"PS3.15 {profile.EDITION} Basic Profile"


@dataclass(frozen=True)
class Identity:
    """How a tenant has it: whether its DICOM files are kept as they are, and the secret that its UIDs change by."""

    keep: bool
    secret: str


class Spliced(io.RawIOBase):
    """New bytes, then a stretch of a file: from `start` on, `length` bytes. Read once; for one thread."""

    def __init__(self, head: bytes, file: BinaryIO, start: int, length: int) -> None:
        self._head = memoryview(head)
        self._file, self._at, self._left = file, start, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return the next bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        self._file.seek(self._at)
        data = self._file.read(min(len(view), self._left))
        view[: len(data)] = data
        self._at += len(data)
        self._left -= len(data)
        return len(data)


def has_preamble(file: BinaryIO) -> bool:
    """Return True if there is a preamble, and something in it; `file` is left at its beginning."""
    file.seek(0)
    start = file.read(PREAMBLE_BYTES + len(SIGNATURE))
    file.seek(0)
    return start.endswith(SIGNATURE) and len(start) > PREAMBLE_BYTES and any(start[:PREAMBLE_BYTES])


def without_preamble(file: BinaryIO) -> BinaryIO:
    """Return the file with zeros for its preamble, which may hold anything, a TIFF header for example (PS3.10, 7.5)."""
    size = file.seek(0, io.SEEK_END)
    start = PREAMBLE_BYTES
    return cast(BinaryIO, Spliced(bytes(start), file, start, size - start))


def deidentified(file: BinaryIO, secret: str) -> tuple[BinaryIO, dict[str, list[str]]]:
    """Return the file without what leads to the patient, and the account of it; for a file that `probe` has accepted.

    The same file and secret give the same bytes. Raises CorruptImage when the pixels are not all there, ImageTooLarge
    or TooCostly when there is more before them than any header has.
    """
    key = secret.encode()
    with vendor_errors():
        header = read_header(file, None)
        pixels = locate(header.file, header)
        account = profile.apply(header.dataset, key)
        meta, elements = _written(header, key)
    head, length = elements + _pixel_element(header, pixels), pixels.end - pixels.start
    if not header.deflated:
        return cast(BinaryIO, Spliced(meta + head, file, pixels.start, length)), account.told()
    dataset = io.BufferedReader(Spliced(head, header.file, pixels.start, length))
    return cast(BinaryIO, Deflated(meta, cast(BinaryIO, dataset))), account.told()


def _written(header: Header, key: bytes) -> tuple[bytes, bytes]:
    """Return the header and the elements as bytes.

    The header is a preamble of zeros and a file meta group that names only what it must.
    """
    dataset = header.dataset
    _mark(dataset)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = header.syntax
    meta.MediaStorageSOPClassUID = UID(str(dataset.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.7"))
    meta.MediaStorageSOPInstanceUID = UID(str(dataset.get("SOPInstanceUID") or profile.remapped("none", key)))
    dataset.file_meta = meta
    dataset.preamble = bytes(PREAMBLE_BYTES)
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    whole = file.getvalue()
    (length,) = struct.unpack_from("<I", whole, _GROUP_LENGTH_AT)
    end = _GROUP_LENGTH_AT + 4 + length
    return _deflated_meta(meta) if header.deflated else whole[:end], whole[end:]


def _deflated_meta(meta: FileMetaDataset) -> bytes:
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = DicomBytesIO()
    write_file_meta_info(file, meta)
    return bytes(PREAMBLE_BYTES) + SIGNATURE + file.getvalue()


def _pixel_element(header: Header, pixels: PixelData) -> bytes:
    """Return the head of the pixel data element in the syntax that is written, which need not be the file's."""
    group, element, length = 0x7FE0, 0x0010, 0xFFFFFFFF if pixels.encapsulated else pixels.end - pixels.start
    if header.syntax.is_implicit_VR:
        return struct.pack("<HHI", group, element, length)
    order = "<" if header.syntax.is_little_endian else ">"
    representation = b"OB" if pixels.encapsulated else pixels.representation.encode()
    return struct.pack(order + "HH2sHI", group, element, representation, 0, length)


def _mark(dataset: Dataset) -> None:
    """Note what PS3.15 E.1 asks for: that it was done, and by which profile (codes of PS3.16, CID 7050)."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    dataset.DeidentificationMethodCodeSequence = Sequence([code])
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
