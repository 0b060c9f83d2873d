"""De-identification on the way in: no name is left wherever it stood, the pixels are the same, and so are the bytes."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from shared.errors import CorruptImage, ImageError, ImageTooLarge
from shared.imaging.decode import Limits, frames, probe
from shared.imaging.dicom import bounded
from shared.imaging.dicom.deidentification import deidentify
from shared.imaging.dicom.deidentification.deidentify import deidentified, has_preamble, without_preamble
from tests.support.files.images import LOSSLESS, NATIVE, dicom_bytes, make_dicom, real_dicom

LIMITS = Limits()
CANARY = "KANARIENVOGEL"
PIXELS = np.random.default_rng(7).integers(0, 4096, (2, 64, 72), dtype=np.uint16)


def identified() -> Dataset:
    """Elements with a patient in each place where DICOM has room for one."""
    elements = Dataset()
    elements.PatientName, elements.PatientID = f"{CANARY}^ANNA", f"{CANARY}-1"
    elements.PatientBirthDate, elements.PatientSex, elements.PatientAge = "19470511", "F", "079Y"
    elements.OtherPatientNames, elements.PatientAddress = [f"{CANARY}^A", f"{CANARY}^B"], f"{CANARY} Road"
    elements.PatientComments = elements.ImageComments = elements.StudyDescription = CANARY
    elements.ReferringPhysicianName = elements.OperatorsName = f"{CANARY}^DR"
    elements.InstitutionName = elements.StationName = elements.AccessionNumber = CANARY
    elements.StudyDate, elements.StudyTime, elements.ContentDate = "20260102", "120000", "20260102"
    elements.BurnedInAnnotation = "YES"
    item = Dataset()
    item.PatientName, item.ReferencedSOPInstanceUID = f"{CANARY}^NESTED", "1.2.3.4.5"
    item.ReferencedSOPClassUID, item.PurposeOfReferenceCodeSequence = "1.2.840.10008.5.1.4.1.1.2", Sequence([Dataset()])
    item.PurposeOfReferenceCodeSequence[0].PersonName = f"{CANARY}^DEEP"
    # A sequence that the table does not name: what is in it must be found.
    elements.VOILUTSequence = Sequence([item])
    block = elements.private_block(0x0011, f"{CANARY} GMBH", create=True)
    block.add_new(0x01, "LO", CANARY)
    elements.add(DataElement(0x60003000, "OW", CANARY.encode() + b"\0"))  # an overlay may have text drawn into it
    elements.add(DataElement(0x60004000, "LT", CANARY))
    return elements


def file(**options: Any) -> bytes:
    """A DICOM file with a patient in every place, preamble and file meta included, and after the pixels."""
    dataset = dcmread(BytesIO(make_dicom(PIXELS, modality="CT", bits_stored=12, **options)))
    dataset.update(identified())
    return CANARY.encode().ljust(128, b"\0") + dicom_bytes(dataset)[128:]


def clean(data: bytes, tenant: str = "north") -> tuple[bytes, dict[str, list[str]]]:
    source, account = deidentified(BytesIO(data), tenant)
    return source.read(), account


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS])
def test_no_name_is_left_and_the_pixels_are_the_same(syntax: Any) -> None:
    data = file(transfer_syntax=syntax)
    assert data.count(CANARY.encode()) > 15
    kept, account = clean(data)
    assert CANARY.encode() not in kept
    for before, after in zip(frames(data, LIMITS), frames(kept, LIMITS), strict=True):
        assert (before == after).all()
    assert {"PatientComments", "InstitutionName", "private", "OverlayData"} & set(account["removed"])
    assert {"PatientName", "PatientID", "StudyInstanceUID", "StudyDate"} <= set(account["replaced"])
    assert CANARY not in str(account)


def test_what_was_done_is_said_in_the_file_too() -> None:
    dataset = dcmread(BytesIO(clean(file())[0]))
    assert dataset.preamble == bytes(128)
    assert (dataset.PatientIdentityRemoved, dataset.DeidentificationMethod) == ("YES", deidentify.METHOD)
    assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert (dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate) == ("", "REMOVED", "")
    assert dataset.BurnedInAnnotation == "YES"  # nobody claims that it was removed
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    nested = dataset.VOILUTSequence[0]
    assert nested.PatientName == ""
    assert nested.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"  # a kind of object, not one


def test_the_same_file_gives_the_same_bytes_to_one_tenant_and_others_to_another() -> None:
    data = file()
    assert clean(data) == clean(data)
    one, other = (dcmread(BytesIO(clean(data, tenant)[0])) for tenant in ("north", "south"))
    assert one.StudyInstanceUID != other.StudyInstanceUID != dcmread(BytesIO(data)).StudyInstanceUID


def test_uids_stay_together_across_files_and_references() -> None:
    first, second = Dataset(), Dataset()
    first.SOPInstanceUID, second.SOPInstanceUID = "1.2.3.4.5", "1.2.3.4.6"
    second.update({})
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3.4.5"
    second.VOILUTSequence = Sequence([item])
    one, two = (
        dcmread(BytesIO(clean(make_dicom(PIXELS, bits_stored=12, elements=elements))[0]))
        for elements in (first, second)
    )
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.SOPInstanceUID == two.VOILUTSequence[0].ReferencedSOPInstanceUID != two.SOPInstanceUID
    assert one.SOPInstanceUID.startswith("2.25.")
    assert len(one.SOPInstanceUID) <= 64


def test_what_stands_behind_the_pixels_is_left_off() -> None:
    trailer = Dataset()
    block = trailer.private_block(0x7FE1, CANARY, create=True)
    block.add_new(0x01, "LO", CANARY)
    trailer.file_meta = dcmread(BytesIO(file())).file_meta
    for syntax in (ExplicitVRLittleEndian, LOSSLESS[0]):
        data = file(transfer_syntax=syntax)
        behind = dicom_bytes(trailer)
        data += behind[behind.index(b"\xe1\x7f") :]
        assert CANARY.encode() not in clean(data)[0]


def test_a_value_that_breaks_its_own_rules_breaks_nothing() -> None:
    data = file().replace(b"19470511", b"11.05.47").replace(b"DS\x02\x00" + b"1 ", b"DS\x02\x00" + b"x ", 1)
    assert CANARY.encode() not in clean(data)[0]


def test_too_much_before_the_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_HEADER_BYTES", 10_000)
    elements = Dataset()
    elements.VOILUTSequence = Sequence([Dataset() for _ in range(2_000)])
    with pytest.raises(ImageTooLarge):
        clean(make_dicom(PIXELS, bits_stored=12, elements=elements))


def test_pixels_that_are_not_all_there_are_refused() -> None:
    for syntax in (ExplicitVRLittleEndian, LOSSLESS[0]):
        with pytest.raises(CorruptImage):
            clean(file(transfer_syntax=syntax)[:-20])


def test_real_files_keep_their_pixels() -> None:
    readable = 0
    for data in real_dicom():
        try:
            said = probe(BytesIO(data), LIMITS)
            pictures = list(frames(data, LIMITS))
        except ImageError:
            continue
        readable += 1
        kept, _ = clean(data)
        says = probe(BytesIO(kept), LIMITS)
        assert (said.width, said.height, said.frames, said.modality) == (
            says.width,
            says.height,
            says.frames,
            says.modality,
        )
        for before, after in zip(pictures, frames(kept, LIMITS), strict=True):
            assert (before == after).all()
    assert readable > 30


def test_a_preamble_becomes_zeros_and_nothing_else_changes() -> None:
    data = b"II*\0" + file()[4:]
    assert has_preamble(BytesIO(data))
    kept = without_preamble(BytesIO(data)).read()
    assert kept[:128] == bytes(128)
    assert kept[128:] == data[128:]
    assert not has_preamble(BytesIO(kept))


def test_the_stored_stream_is_read_in_pieces() -> None:
    source, _ = deidentified(BytesIO(file()), "north")
    pieces = b"".join(iter(lambda: source.read(7), b""))
    assert hashlib.sha256(pieces).digest() == hashlib.sha256(clean(file())[0]).digest()
