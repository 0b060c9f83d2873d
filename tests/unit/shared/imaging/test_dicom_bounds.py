"""DICOM headers that cost far more than their size: refused after what a header may cost, whatever they are made of.

What is counted is reads, not seconds: a loaded machine changes nothing.
"""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from shared.errors import CorruptImage, ImageError, ImageTooLarge, InvalidDicom, TooCostly
from shared.imaging.decode import Limits, decode_one, frames, probe
from shared.imaging.dicom import bounded, deflate
from shared.imaging.dicom.deidentification.deidentify import deidentified
from tests.support.files.damaged_dicom import raw_element, with_elements
from tests.support.files.images import make_dicom

LIMITS = Limits()
PLAIN = make_dicom(np.arange(64, dtype=np.uint8).reshape(8, 8))
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
EMPTY_ITEM, UNDEFINED = ITEM + b"\0\0\0\0", b"\xff\xff\xff\xff"
MANY = 4000
MOST_READS = 3000


def inserted(elements: bytes) -> bytes:
    """The plain file with these bytes before its group 0028; one more element of group 0021 or so."""
    at = PLAIN.index(b"\x28\x00\x02\x00US")
    return PLAIN[:at] + elements + PLAIN[at:]


def sequence(tag: bytes, value: bytes, *, undefined: bool = False) -> bytes:
    length = UNDEFINED if undefined else struct.pack("<I", len(value))
    return tag + b"SQ\0\0" + length + value + (SEQUENCE_END if undefined else b"")


PRIVATE = b"\x21\x00\x01\x10LO\0\0"
VOI_LUT, UNKNOWN, SERIES = b"\x28\x00\x10\x30", b"\x21\x00\x10\x10", b"\x08\x00\x50\x12"
COSTLY = {
    "empty items": inserted(sequence(UNKNOWN, EMPTY_ITEM * MANY, undefined=True)),
    "items of undefined length": inserted(sequence(UNKNOWN, (ITEM + UNDEFINED + ITEM_END) * MANY, undefined=True)),
    "private elements": inserted(PRIVATE * MANY),
    "sequences in one another": inserted(sequence(UNKNOWN, ITEM + UNDEFINED, undefined=False)[:8] + UNDEFINED
                                         + (ITEM + UNDEFINED + UNKNOWN + b"SQ\0\0" + UNDEFINED) * MANY),
    "empty sequences": inserted((SERIES + b"SQ\0\0\0\0\0\0") * MANY),
    "stray items": inserted(EMPTY_ITEM * MANY),
    "file meta": PLAIN[:132] + b"\x02\x00\x02\x01OB\0\0\0\0\0\0" * MANY + PLAIN[132:],
}  # fmt: skip
#: Costly where they are looked into only.
NESTED = {
    "empty items of a known length": inserted(sequence(SERIES, EMPTY_ITEM * MANY)),
    "elements in an item": inserted(
        sequence(SERIES, ITEM + struct.pack("<I", 8 * MANY) + b"\x10\x00\x10\x21LO\0\0" * MANY)
    ),
    "look-up tables": inserted(b"")[: PLAIN.index(b"\xe0\x7f\x10\x00")]
    + sequence(VOI_LUT, EMPTY_ITEM * MANY)
    + PLAIN[PLAIN.index(b"\xe0\x7f\x10\x00") :],
}


@pytest.fixture(autouse=True)
def _fewer_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that takes less time to reach than the real one."""
    monkeypatch.setattr(bounded, "MOST_READS", MOST_READS)


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads from now on."""
    sizes: list[int] = []
    spend = bounded.Budget.spend

    def noting(self: bounded.Budget, count: int) -> None:
        sizes.append(count)
        spend(self, count)

    monkeypatch.setattr(bounded.Budget, "spend", noting)
    return sizes


@pytest.mark.parametrize("name", COSTLY)
def test_a_header_of_more_than_any_device_writes_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = reads_of(monkeypatch)
    for read in (lambda data: probe(BytesIO(data), LIMITS), lambda data: decode_one(data, LIMITS)):
        reads.clear()
        with pytest.raises(ImageError):
            read(COSTLY[name])
        assert len(reads) <= MOST_READS + 1


@pytest.mark.parametrize("name", NESTED)
def test_what_is_looked_into_later_has_its_bounds_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = reads_of(monkeypatch)
    with pytest.raises(TooCostly):
        deidentified(BytesIO(NESTED[name]), "north")
    assert len(reads) <= 2 * MOST_READS + 2
    reads.clear()
    if name == "look-up tables":
        with pytest.raises(TooCostly):
            decode_one(NESTED[name], LIMITS)
    else:
        decode_one(NESTED[name], LIMITS)  # nobody asks for them
    assert len(reads) <= 2 * MOST_READS + 2


def test_the_bytes_before_the_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_HEADER_BYTES", 3000)
    with pytest.raises(ImageTooLarge):
        probe(BytesIO(inserted(sequence(UNKNOWN, EMPTY_ITEM * 400, undefined=True))), LIMITS)


def test_the_bound_is_one_that_takes_a_second_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 reads of pydicom's take about half a second; the files that were met had millions of elements."""
    monkeypatch.undo()
    assert bounded.MOST_READS <= 60_000
    with pytest.raises(TooCostly):
        probe(BytesIO(inserted(PRIVATE * 70_000)), LIMITS)
    assert probe(BytesIO(inserted(PRIVATE * 15_000)), LIMITS).width == 8


def test_a_million_values_are_not_looked_at_one_by_one() -> None:
    data = make_dicom(np.arange(64, dtype=np.uint8).reshape(8, 8), window=(128, 256))
    with pytest.raises(InvalidDicom, match=r"WindowCenter \(0028,1050\) is longer"):
        decode_one(raw_element(data, "WindowCenter", b"1\\" * 30_000 + b"1 "), LIMITS)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [False, True])
def test_the_functional_groups_of_a_long_volume_are_read(syntax: str, undefined: bool) -> None:
    count = 60
    groups = Sequence([groups_of_a_frame(index) for index in range(count)])
    for group in groups:
        group.is_undefined_length_sequence_item = undefined
        for element in group:
            element.is_undefined_length = undefined
            element.value[0].is_undefined_length_sequence_item = undefined
    elements = with_elements(PerFrameFunctionalGroupsSequence=groups)
    elements["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
    volume = np.tile(np.arange(16, dtype=np.uint16).reshape(1, 4, 4), (count, 1, 1))
    data = make_dicom(volume, bits_stored=12, modality="CT", elements=elements, transfer_syntax=syntax)  # type: ignore[arg-type]

    assert probe(BytesIO(data), LIMITS).frames == count
    stored = deidentified(BytesIO(data), "north")[0].read()
    assert len(list(frames(stored, LIMITS))) == count


def groups_of_a_frame(index: int) -> Dataset:
    """What an enhanced CT says of a frame, about as much as scanners write."""
    parts = {
        "FrameContentSequence": with_elements(InStackPositionNumber=index, FrameAcquisitionNumber=1, StackID="1"),
        "PlanePositionSequence": with_elements(ImagePositionPatient=[0, 0, index]),
        "PlaneOrientationSequence": with_elements(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        "PixelMeasuresSequence": with_elements(PixelSpacing=[1, 1], SliceThickness=1),
        "PixelValueTransformationSequence": with_elements(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU"),
        "FrameVOILUTSequence": with_elements(WindowCenter=40, WindowWidth=400),
        "CTAcquisitionDetailsSequence": with_elements(RotationDirection="CW", TableHeight=1, GantryDetectorTilt=0),
        "CTExposureSequence": with_elements(ExposureTimeInms=1, XRayTubeCurrentInmA=1, ExposureInmAs=1),
    }
    return with_elements(**{keyword: [part] for keyword, part in parts.items()})


def deflated(count: int = 3) -> bytes:
    volume = np.tile(np.arange(1024, dtype=np.uint16).reshape(1, 32, 32), (count, 1, 1))
    return make_dicom(volume, bits_stored=12, transfer_syntax=DeflatedExplicitVRLittleEndian)


def test_a_deflated_dataset_is_read_frame_by_frame_and_stays_deflated() -> None:
    data = deflated()
    source, _ = deidentified(BytesIO(data), "north")
    stored = b"".join(iter(lambda: source.read(50), b""))
    assert len(stored) < 3 * 32 * 32
    assert len(stored) % 2 == 0
    for kept in (data, stored):
        assert [picture.shape for picture in frames(kept, LIMITS)] == [(32, 32)] * 3
        assert np.array_equal(decode_one(kept, LIMITS, frame=2), decode_one(data, LIMITS))
    assert stored == deidentified(BytesIO(data), "north")[0].read()


def test_a_deflated_dataset_inflates_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = deflated(200)
    assert probe(BytesIO(data), LIMITS).frames == 200
    monkeypatch.setattr(deflate, "MAX_INFLATED_BYTES", 10_000)
    for read in (lambda: probe(BytesIO(data), LIMITS), lambda: decode_one(data, LIMITS)):
        with pytest.raises(ImageTooLarge):
            read()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_deflated_dataset_that_is_cut_or_damaged_is_corrupt(share: float) -> None:
    data = bytearray(deflated())
    cut = len(data) - 200 + int(share * 190)
    for broken in (bytes(data[:cut]), bytes(data[:cut]) + bytes(200)):
        with pytest.raises(CorruptImage):
            probe(BytesIO(broken), LIMITS)
        with pytest.raises(CorruptImage):
            decode_one(broken, LIMITS)
