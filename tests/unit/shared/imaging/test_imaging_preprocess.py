from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.imaging.preprocess import InputSpec, prepare, to_tensor

sides = st.integers(1, 400)


@settings(deadline=None)
@given(height=sides, width=sides, size=st.sampled_from([32, 224]), value=st.integers(0, 255))
def test_any_picture_becomes_a_square_and_a_flat_one_stays_flat(height: int, width: int, size: int, value: int) -> None:
    prepared = prepare(np.full((height, width), value, dtype=np.uint8), InputSpec(size=size))

    assert prepared.dtype == np.uint8
    assert prepared.shape == (size, size)
    assert (prepared == value).all()


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)

    assert np.array_equal(prepare(picture, InputSpec()), picture)


def test_shrinking_averages_areas() -> None:
    picture = np.array([[0, 10, 100, 110], [20, 30, 120, 130]], dtype=np.uint8)

    assert prepare(picture.repeat(2, axis=0), InputSpec(size=2)).tolist() == [[5, 105], [25, 125]]


def test_the_long_axis_is_averaged_although_the_short_one_grows() -> None:
    stripes = np.tile(np.array([0, 200], dtype=np.uint8), (2, 32))  # 2 x 64: sampling instead would keep stripes

    assert (prepare(stripes, InputSpec(size=16)) == 100).all()


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((0, 4), np.uint8)],
    ids=["colour", "16 bits", "empty"],
)
def test_prepare_refuses_what_is_no_display_grey(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="prepare takes"):
        prepare(picture, InputSpec())


def test_the_tensor_repeats_grey_over_the_channels_unscaled() -> None:
    spec = InputSpec(size=2)
    pictures = [np.array([[0, 255], [7, 8]], np.uint8), np.zeros((2, 2), np.uint8)]

    tensor = to_tensor(pictures, spec)

    assert tensor.shape == (2, 2, 2, 3)
    assert tensor.dtype == np.float32
    for channel in range(3):
        assert tensor[0, :, :, channel].tolist() == [[0, 255], [7, 8]]


def test_no_images_make_an_empty_tensor() -> None:
    assert to_tensor([], InputSpec()).shape == (0, 224, 224, 3)


def test_the_tensor_refuses_images_that_were_not_prepared() -> None:
    with pytest.raises(ValueError, match="prepared images"):
        to_tensor([np.zeros((3, 3), np.uint8)], InputSpec())
