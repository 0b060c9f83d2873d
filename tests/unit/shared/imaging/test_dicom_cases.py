"""DICOM files as devices and archives really write them, each against the plain file whose picture it must give.

`CASES` has a row for each file that was met, by its name; every one goes through de-identification too, as on its way
into the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from shared.errors import ImageError, InvalidDicom
from shared.imaging.decode import Limits, MediaType, decode_one, probe
from shared.imaging.dicom.deidentification.deidentify import deidentified
from tests.support.files.damaged_dicom import edited, raw_element, says, with_elements
from tests.support.files.images import make_dicom

LIMITS = Limits()
SMALL = cv2.resize(np.random.default_rng(5).random((7, 9)).astype(np.float32), (48, 40))
STORED = np.rint(SMALL / SMALL.max() * 4095).astype(np.uint16)
HOUNSFIELD = (STORED.astype(np.int32) * 1800 // 4095 - 1024).astype(np.int16)
PADDED = np.where(np.arange(48) < 9, -2000, STORED.astype(np.int32) - 1024).astype(np.int16)
WINDOW = (2048, 4096)
LUNG = (-600, 1500)


def base_dx12(**options: object) -> bytes:
    return make_dicom(STORED, **({"bits_stored": 12, "window": WINDOW, "slope": None} | options))  # type: ignore[arg-type]


def base_ct(**options: object) -> bytes:
    return make_dicom(HOUNSFIELD, **({"modality": "CT", "bits_stored": 16, "window": LUNG} | options))  # type: ignore[arg-type]


def unsigned_ct(**options: object) -> bytes:
    """The CT with 1,024 added to every value, in 12 unsigned bits, as most scanners store it."""
    stored = np.clip(HOUNSFIELD.astype(np.int32) + 1024, 0, 4095).astype(np.uint16)
    return make_dicom(stored, **({"modality": "CT", "bits_stored": 12, "intercept": -1024} | options))  # type: ignore[arg-type]


def padded(value: int = -2000, vr: str = "SS", **more: object) -> bytes:
    elements = with_elements(**more)
    elements.add_new("PixelPaddingValue", vr, value)
    return make_dicom(PADDED, bits_stored=16, modality="CR", slope=None, elements=elements)


def lut_item(first: int, bits: int, entries: NDArray[np.integer], count: int | None = None) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [count or len(entries), first % 65536, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


def with_lut(keyword: str, item: Dataset, **options: object) -> bytes:
    return base_dx12(elements=with_elements(**{keyword: [item]}), **options)


RAMP12 = np.arange(4096)
#: The window of the base as a table of 12 bits.
AS_WINDOW = np.rint(np.clip((RAMP12 - 2047.5) / 4095 + 0.5, 0, 1) * 4095)


def overlay_in_high_bits() -> bytes:
    stored = STORED | np.where(np.indices(STORED.shape).sum(0) % 7 == 0, 0x9000, 0).astype(np.uint16)
    data = make_dicom(stored, bits_stored=16, window=WINDOW, slope=None, transfer_syntax=JPEG2000Lossless)
    return edited(data, BitsStored=12, HighBit=11)


def empty_luts() -> bytes:
    item = with_elements(LUTExplanation="")
    item.add_new("LUTDescriptor", "US", None)
    item.add_new("LUTData", "US", None)
    return base_dx12(elements=with_elements(ModalityLUTSequence=[item], VOILUTSequence=[item]))


def stray_item() -> bytes:
    data = base_dx12()
    at = data.index(b"\x20\x00\x0d\x00UI")
    creator = b"\x19\x00\x10\x00LO\x04\x00TEST"
    return data[:at] + creator + b"\x19\x00\x00\x10SQ\0\0\0\0\0\0" + b"\xfe\xff\x00\xe0\0\0\0\0" + data[at:]


def without_preamble(data: bytes) -> bytes:
    """The dataset alone, which begins after the file meta."""
    return data[data.index(b"\x08\x00\x16\x00") :]


def window_comma() -> bytes:
    data = edited(base_dx12(), WindowCenter="2048.5", WindowWidth="4096.5")
    return data.replace(b"2048.5", b"2048,5").replace(b"4096.5", b"4096,5")


@dataclass(frozen=True)
class Case:
    """A file and the one whose picture it gives, or the words that name why it is refused."""

    make: Callable[[], bytes]
    same_as: Callable[[], bytes] | None = None
    tolerance: int = 1
    refused: str = ""


CASES = {
    "base-ct.dcm": Case(base_ct, base_ct),
    "base-dx12.dcm": Case(base_dx12, base_dx12),
    "ct-window-two.dcm": Case(
        lambda: base_ct(elements=with_elements(WindowCenter=[40, -600], WindowWidth=[400, 1500])), base_ct
    ),
    "deflated.dcm": Case(lambda: base_dx12(transfer_syntax=DeflatedExplicitVRLittleEndian), base_dx12),
    "leadtools-empty-luts.dcm": Case(empty_luts, base_dx12),
    "modality-lut-12bit.dcm": Case(
        lambda: with_lut("ModalityLUTSequence", lut_item(0, 12, RAMP12)), base_dx12, tolerance=2
    ),
    "no-photometric.dcm": Case(
        lambda: edited(base_dx12(), PhotometricInterpretation=None),
        refused=r"PhotometricInterpretation \(0028,0004\) is missing",
    ),
    "no-preamble.dcm": Case(lambda: without_preamble(base_dx12()), base_dx12),
    "overlay-high-bits-j2k.dcm": Case(overlay_in_high_bits, base_dx12),
    "padding-signed-base.dcm": Case(padded, padded),
    "padding-us-in-signed.dcm": Case(lambda: padded(63536, "US"), padded),
    "rescale-intercept-only.dcm": Case(lambda: edited(unsigned_ct(), RescaleSlope=None), base_ct),
    "says-implicit-is-explicit.dcm": Case(lambda: says(ImplicitVRLittleEndian, base_dx12()), base_dx12),
    "stray-item.dcm": Case(stray_item, base_dx12),
    "voifunc-lowercase.dcm": Case(
        lambda: raw_element(base_dx12(elements=with_elements(VOILUTFunction="SIGMOID")), "VOILUTFunction", b"linear"),
        base_dx12,
    ),
    "voilut-implicit-negative-first.dcm": Case(
        lambda: unsigned_ct(
            transfer_syntax=ImplicitVRLittleEndian,
            elements=with_elements(VOILUTSequence=[lut_item(-1024, 12, RAMP12)]),
        ),
        base_ct,
        tolerance=2,
    ),
    "voilut-narrower-than-declared.dcm": Case(
        lambda: with_lut("VOILUTSequence", lut_item(0, 16, AS_WINDOW), window=None), base_dx12, tolerance=2
    ),
    "voilut-short-by-one.dcm": Case(
        lambda: with_lut("VOILUTSequence", lut_item(0, 12, AS_WINDOW[:-1], count=4096)), base_dx12
    ),
    "window-comma.dcm": Case(window_comma, base_dx12),
}


def lacking(keyword: str) -> bytes:
    return edited(base_dx12(), **{keyword: None})


def explicit_says_implicit() -> bytes:
    return says(ExplicitVRLittleEndian, base_dx12(transfer_syntax=ImplicitVRLittleEndian))


#: Their like, made up.
SIBLINGS = {
    "the other way round: says explicit, is implicit": Case(explicit_says_implicit, base_dx12),
    "slope alone": Case(lambda: edited(base_ct(), RescaleIntercept=None), base_ct),
    "a rescale twice the same": Case(lambda: raw_element(base_ct(), "RescaleSlope", b"1\\1 "), base_ct),
    "a rescale of two values": Case(
        lambda: raw_element(base_ct(), "RescaleSlope", b"1\\2 "), refused=r"RescaleSlope \(0028,1053\)"
    ),
    "a rescale in words": Case(
        lambda: raw_element(base_dx12(slope=1), "RescaleIntercept", b"none"), refused=r"RescaleIntercept \(0028,1052\)"
    ),
    "an infinite rescale": Case(
        lambda: raw_element(base_dx12(slope=1), "RescaleSlope", b"1e999 "), refused=r"RescaleSlope \(0028,1053\)"
    ),
    "a decimal comma in the rescale": Case(
        lambda: raw_element(unsigned_ct(), "RescaleIntercept", b"-1024,0 "), base_ct
    ),
    "a window in words": Case(
        lambda: raw_element(base_dx12(), "WindowWidth", b"wide"), refused=r"WindowWidth \(0028,1051\)"
    ),
    "a CT in Hounsfield units needs no window": Case(
        lambda: raw_element(base_ct(), "WindowWidth", b"wide"), base_ct
    ),
    "a function for each window": Case(
        lambda: base_dx12(
            elements=with_elements(
                WindowCenter=[2048, 9], WindowWidth=[4096, 2], VOILUTFunction=["LINEAR", "SIGMOID"]
            )
        ),
        base_dx12,
    ),
    "the first window without a width": Case(
        lambda: base_dx12(elements=with_elements(WindowCenter=[9, 2048], WindowWidth=[0, 4096])), base_dx12
    ),
    "an unknown function": Case(
        lambda: base_dx12(elements=with_elements(VOILUTFunction="CUBIC")), refused=r"VOILUTFunction \(0028,1056\)"
    ),
    "10 bits in a table of 16": Case(
        lambda: with_lut("VOILUTSequence", lut_item(0, 16, AS_WINDOW // 4), window=None), base_dx12
    ),
    "entries beyond the declared bits": Case(
        lambda: with_lut("VOILUTSequence", lut_item(0, 8, AS_WINDOW), window=None), base_dx12
    ),
    "a modality table short by one": Case(
        lambda: with_lut("ModalityLUTSequence", lut_item(0, 16, RAMP12[:-1], count=4096)), base_dx12
    ),
    "a modality table of 10 bits": Case(
        lambda: with_lut("ModalityLUTSequence", lut_item(0, 10, RAMP12 // 4), window=(512, 1024)), base_dx12, 2
    ),
    "a modality table of half of its entries": Case(
        lambda: with_lut("ModalityLUTSequence", lut_item(0, 12, RAMP12[:2048], count=4096)),
        refused=r"LUTData \(0028,3006\) has 2048 entries",
    ),
    "a table of zeros": Case(
        lambda: with_lut("VOILUTSequence", lut_item(0, 12, AS_WINDOW * 0)),
        refused=r"LUTData \(0028,3006\) has the same entry for every value",
    ),
    "an empty item before the table": Case(
        lambda: base_dx12(
            window=None, elements=with_elements(VOILUTSequence=[Dataset(), lut_item(0, 12, AS_WINDOW)])
        ),
        base_dx12,
    ),
    "a table after a rescale below zero": Case(
        lambda: base_dx12(
            slope=1, intercept=-1024, transfer_syntax=ImplicitVRLittleEndian,
            elements=with_elements(VOILUTSequence=[lut_item(-1024, 12, AS_WINDOW)]),
        ),
        base_dx12,
    ),
    "a descriptor of two values": Case(
        lambda: with_lut("VOILUTSequence", with_elements(LUTDescriptor=[4096, 0], LUTData=b"\0" * 8192)),
        refused=r"LUTDescriptor \(0028,3002\)",
    ),
    "padding as SS in unsigned pixels": Case(
        lambda: make_dicom(
            np.where(STORED < 99, 63536, STORED), bits_stored=16, slope=None, elements=padding("SS", -2000)
        ),
        lambda: make_dicom(
            np.where(STORED < 99, 63536, STORED), bits_stored=16, slope=None, elements=padding("US", 63536)
        ),
    ),
    "a range of padding": Case(
        lambda: make_dicom(
            np.where(np.arange(48) < 9, -1990, PADDED).astype(np.int16), bits_stored=16, modality="CR", slope=None,
            elements=padding("SS", -2000, PixelPaddingRangeLimit=-1900),
        ),
        padded,
    ),
    "no preamble, and file meta": Case(lambda: base_dx12()[132:], base_dx12),
    "no preamble, and DICM": Case(lambda: base_dx12()[128:], base_dx12),
    "a preamble without DICM": Case(lambda: base_dx12()[:128] + base_dx12()[132:], base_dx12),
    "no preamble, in implicit VR": Case(
        lambda: without_preamble(base_dx12(transfer_syntax=ImplicitVRLittleEndian)), base_dx12
    ),
    "no preamble, and compressed": Case(
        lambda: without_preamble(base_dx12(transfer_syntax=JPEG2000Lossless)),
        refused=r"TransferSyntaxUID \(0002,0010\) is missing",
    ),
    "a stray item of undefined length": Case(
        lambda: stray_item().replace(
            b"\xfe\xff\x00\xe0\0\0\0\0",
            b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x60\x00CS\x02\x00MR\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
        ),
        base_dx12,
    ),
    "a stray item with elements": Case(
        lambda: stray_item().replace(
            b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\x00\xe0\x0a\0\0\0\x08\x00\x60\x00CS\x02\x00MR"
        ),
        base_dx12,
    ),
    **{
        f"{keyword} missing": Case(partial(lacking, keyword), refused=keyword)
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
    },
}  # fmt: skip


def padding(vr: str, value: int, **more: object) -> Dataset:
    elements = with_elements(**more)
    elements.add_new("PixelPaddingValue", vr, value)
    return elements


def pictures_of(data: bytes) -> list[NDArray[np.uint8]]:
    """The picture of a file as it is kept, and as it is stored without what leads to the patient."""
    assert probe(BytesIO(data), LIMITS).media_type is MediaType.DICOM
    stored = deidentified(BytesIO(data), "north")[0].read()
    return [decode_one(data, LIMITS), decode_one(stored, LIMITS)]


@pytest.mark.parametrize("name", [*CASES, *SIBLINGS])
def test_a_file_gives_the_picture_of_its_plain_twin_or_names_what_is_wrong(name: str) -> None:
    case = (CASES | SIBLINGS)[name]
    if case.same_as is None:
        with pytest.raises(ImageError, match=case.refused):
            pictures_of(case.make())
        return
    twin = decode_one(case.same_as(), LIMITS).astype(int)
    assert twin.min() < 70
    assert twin.max() > 200
    for picture in pictures_of(case.make()):
        assert np.abs(picture - twin).max() <= case.tolerance


def test_what_is_wrong_is_named_before_a_worker_sees_it_where_the_header_tells() -> None:
    with pytest.raises(InvalidDicom, match="PhotometricInterpretation"):
        probe(BytesIO(CASES["no-photometric.dcm"].make()), LIMITS)
