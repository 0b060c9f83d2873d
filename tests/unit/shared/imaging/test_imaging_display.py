"""Stored values to display grey, by the formulas of DICOM PS3.3 C.11."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from shared.errors import InvalidDicom, UnsupportedDicom
from shared.imaging.decode import Limits, decode_one, frames
from tests.support.files.damaged_dicom import with_elements
from tests.support.files.images import NATIVE, make_dicom

LIMITS = Limits()


def shown(stored: list[int], dtype: str = "u2", bits_stored: int = 16, **options: object) -> list[int]:
    data = make_dicom(np.array([stored], dtype=dtype), bits_stored=bits_stored, **options)  # type: ignore[arg-type]
    return [int(grey) for grey in decode_one(data, LIMITS)[0]]


def lut(first: int, bits: int, entries: list[int], vr: str = "US", order: str = "<") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    packed = np.array(entries, f"{order}u2").tobytes()
    item.add_new("LUTData", vr, packed if vr == "OW" else entries)
    return item


@pytest.mark.parametrize(
    ("photometric", "expected"), [("MONOCHROME2", [0, 1, 254, 255]), ("MONOCHROME1", [255, 254, 1, 0])]
)
def test_monochrome_one_is_turned_around(photometric: str, expected: list[int]) -> None:
    assert shown([0, 1, 254, 255], "u1", 8, window=(128, 256), photometric=photometric) == expected


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_full_window_maps_the_stored_range_to_all_greys(bits: int) -> None:
    top, dtype = (1 << bits) - 1, "1" if bits == 8 else "2"
    half = 1 << bits - 1

    assert shown([0, top], "u" + dtype, bits, window=(half, 2 * half)) == [0, 255]
    assert shown([-half, half - 1], "i" + dtype, bits, window=(0, 2 * half)) == [0, 255]


def test_linear_window() -> None:
    # centre 100, width 51: black up to 99.5 - 25 = 74.5, white above 124.5, and (x - 99.5) / 50 + 0.5 between
    expected = [0, 0, round(255 * 0.01), round(255 * 0.51), round(255 * 0.99), 255, 255]

    assert shown([0, 74, 75, 100, 124, 125, 4000], bits_stored=12, window=(100, 51)) == expected


def test_linear_exact_window() -> None:
    exact = with_elements(VOILUTFunction="LINEAR_EXACT")

    assert shown([75, 90, 100, 125, 126], bits_stored=12, window=(100, 50), elements=exact) == [0, 76, 128, 255, 255]


def test_sigmoid_window() -> None:
    sigmoid = with_elements(VOILUTFunction="SIGMOID")
    expected = [round(255 / (1 + math.exp(-4 * (x - 100) / 50))) for x in (0, 90, 100, 110, 4000)]

    assert shown([0, 90, 100, 110, 4000], bits_stored=12, window=(100, 50), elements=sigmoid) == expected


def test_an_unknown_voi_function_is_unsupported() -> None:
    with pytest.raises(UnsupportedDicom):
        shown([0, 1], window=(1, 2), elements=with_elements(VOILUTFunction="CUBIC"))


def test_rescale_comes_before_the_window() -> None:
    # Hounsfield units 2 x - 1024; window 40 / 401 is -160.5 to 239.5
    stored = [0, 431, 432, 532, 631, 632, 4095]
    hounsfield = [2 * value - 1024 for value in stored]
    expected = [round(255 * min(1, max(0, (value - 39.5) / 400 + 0.5))) for value in hounsfield]

    assert shown(stored, bits_stored=12, slope=2, intercept=-1024, window=(40, 401)) == expected


def test_signed_values_below_zero_are_ordered_below_it() -> None:
    assert shown([-1000, -600, 0, 150], "i2", 12, window=(-425, 1151)) == [0, 89, 222, 255]


def test_a_falling_rescale_turns_the_picture_around() -> None:
    assert shown([0, 255], "u1", 8, slope=-1, intercept=255, window=(128, 256)) == [0, 255][::-1]


def test_the_first_of_several_windows_counts() -> None:
    several = with_elements(WindowCenter=[128, 10], WindowWidth=[256, 5])

    assert shown([0, 77, 255], "u1", 8, elements=several) == [0, 77, 255]


def test_an_x_ray_without_a_window_is_stretched_from_minimum_to_maximum() -> None:
    assert shown([1000, 1500, 2000], bits_stored=12) == [0, 128, 255]
    assert shown([1000, 1500, 2000], bits_stored=12, photometric="MONOCHROME1") == [255, 127, 0]
    assert shown([-100, 0, 100], "i2") == [0, 128, 255]


def test_each_frame_is_stretched_by_itself() -> None:
    volume = np.array([[[0, 10]], [[100, 4000]]], dtype=np.uint16)

    assert [frame.tolist() for frame in frames(make_dicom(volume, bits_stored=12), LIMITS)] == [[[0, 255]]] * 2


def test_padding_does_not_count_in_the_stretch() -> None:
    padded = with_elements()
    padded.add_new("PixelPaddingValue", "US", 65535)

    assert shown([65535, 1000, 1500, 2000], elements=padded) == [255, 0, 128, 255]


def test_a_frame_of_one_value_is_black() -> None:
    assert shown([7, 7]) == [0, 0]


@pytest.mark.parametrize("width", [0, -5, 0.5])
def test_a_window_without_width_counts_as_none(width: float) -> None:
    assert shown([1000, 1500, 2000], bits_stored=12, window=(1500, width)) == [0, 128, 255]


def test_a_ct_without_a_window_is_shown_with_the_lung_window() -> None:
    # -600 / 1500: black up to -600.5 - 749.5 = -1350, white above 149
    assert shown([-2000, -1350, -600, 149, 150, 3000], "i2", modality="CT") == [0, 0, 128, 255, 255, 255]


def test_a_ct_without_hounsfield_units_is_stretched() -> None:
    assert shown([0, 50, 100], "u1", 8, modality="CT", slope=None) == [0, 128, 255]


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", NATIVE)
def test_a_voi_lut_goes_before_a_window(syntax: UID, vr: str) -> None:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    table = with_elements(VOILUTSequence=[lut(10, 12, [0, 4095, 2048], vr, order)])

    # below the first entry the first, above the last the last
    assert shown([0, 10, 11, 12, 500], bits_stored=12, window=(6, 12), elements=table, transfer_syntax=syntax) == [
        0, 0, 255, 128, 128,
    ]  # fmt: skip


def test_a_voi_lut_of_eight_bit_entries_may_have_more_than_256_of_them() -> None:
    table = with_elements(VOILUTSequence=[lut(0, 8, [value // 16 for value in range(4096)])])

    assert shown([0, 255, 256, 2048, 4095], bits_stored=12, elements=table) == [0, 15, 16, 128, 255]


def test_a_voi_lut_may_start_below_zero() -> None:
    table = with_elements(VOILUTSequence=[lut(-2, 8, [255, 128, 0])])

    assert shown([-2, -1, 0, 5], "i2", 12, elements=table, transfer_syntax=ImplicitVRLittleEndian) == [255, 128, 0, 0]


def test_a_voi_lut_much_shorter_than_its_descriptor_is_refused() -> None:
    short = lut(0, 8, [1, 2, 3])
    short.LUTDescriptor = [300, 0, 8]

    with pytest.raises(InvalidDicom, match=r"LUTData \(0028,3006\) has 3 entries, and LUTDescriptor says 300"):
        shown([0, 1], elements=with_elements(VOILUTSequence=[short]))


@pytest.mark.parametrize("syntax", NATIVE)
def test_a_modality_lut_comes_before_the_window(syntax: UID) -> None:
    table = with_elements(ModalityLUTSequence=[lut(0, 16, [0, 65535, 32768])])

    assert shown([0, 1, 2], slope=None, window=(32768, 65536), elements=table, transfer_syntax=syntax) == [0, 255, 128]


def test_a_slope_of_zero_is_refused() -> None:
    with pytest.raises(InvalidDicom, match=r"RescaleSlope \(0028,1053\)"):
        shown([0, 1], slope=0, window=(128, 256))


def enhanced(shared: Dataset, per_frame: list[Dataset]) -> list[NDArray[np.uint8]]:
    groups = with_elements(SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame)
    volume = np.array([[[0, 100, 200]]] * len(per_frame), dtype=np.uint16)
    data = make_dicom(
        volume, bits_stored=12, modality="CT", slope=None, elements=groups, transfer_syntax=ExplicitVRLittleEndian
    )
    return list(frames(data, LIMITS))


def test_functional_groups_decide_frame_by_frame() -> None:
    rescale = with_elements(RescaleSlope=1, RescaleIntercept=-100, RescaleType="US")
    shared = with_elements(PixelValueTransformationSequence=[rescale])
    windows = [with_elements(WindowCenter=centre, WindowWidth=201) for centre in (0.5, 100.5)]
    per_frame = [with_elements(FrameVOILUTSequence=[window]) for window in windows]

    first, second, third = enhanced(shared, [*per_frame, Dataset()])

    assert first.tolist() == [[0, 128, 255]]  # -100, 0, 100 in -100 to 100
    assert second.tolist() == [[0, 0, 128]]
    # no window of its own: minimum to maximum
    assert third.tolist() == [[0, 128, 255]]


def test_functional_groups_in_hounsfield_units_go_into_the_lung_window() -> None:
    rescale = with_elements(RescaleSlope=1, RescaleIntercept=-100, RescaleType="HU")
    shared = with_elements(PixelValueTransformationSequence=[rescale])
    window = with_elements(FrameVOILUTSequence=[with_elements(WindowCenter=0.5, WindowWidth=201)])

    for frame in enhanced(shared, [window, Dataset()]):
        assert frame.tolist() == [[round(255 * ((value + 600.5) / 1499 + 0.5)) for value in (-100, 0, 100)]]


def test_objects_that_differ_in_one_element_are_each_shown_by_their_own() -> None:
    values = [0, 100, 200, 300]

    def views() -> list[list[int]]:
        return [
            shown(values, window=(150, 301)),
            shown(values, window=(170, 301)),
            shown(values, window=(150, 101)),
            shown(values, window=(150, 301), slope=2),
            shown(values, window=(150, 301), intercept=-50),
            shown(values, window=(150, 301), elements=with_elements(VOILUTFunction="SIGMOID")),
            shown(values, "i2", window=(150, 301), intercept=-25),
            shown(values, window=(150, 301), photometric="MONOCHROME1"),
        ]

    first = views()

    assert len({tuple(view) for view in first}) == len(first)
    assert views() == first  # by now every table is remembered


def test_look_up_tables_are_not_mistaken_for_one_another() -> None:
    tables = [with_elements(VOILUTSequence=[lut(0, 8, entries)]) for entries in ([0, 100, 200], [0, 100, 201])]

    assert [shown([0, 1, 2], elements=table) for table in tables] == [[0, 100, 200], [0, 100, 201]]
