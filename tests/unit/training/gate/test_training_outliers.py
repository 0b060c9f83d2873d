"""Pictures that are no chest images: real ones from installed packages, drawn ones, spoiled chest images."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.imaging.preprocess import InputSpec
from tests.support.bundles.gate import chest
from training.gate import outliers
from training.gate.drawings import FITTING, MEASURING
from training.gate.outliers import SPOILED, Outlier, fitting, jigsaw, measuring

SPEC = InputSpec(size=56)


@pytest.fixture(scope="module")
def fitted() -> list[Outlier]:
    return fitting(SPEC)


@pytest.fixture(scope="module")
def measured() -> list[Outlier]:
    return measuring(SPEC)


def test_no_source_serves_both_fitting_and_measuring(fitted: list[Outlier], measured: list[Outlier]) -> None:
    assert {outlier.source for outlier in fitted}.isdisjoint(outlier.source for outlier in measured)
    assert {outlier.kind for outlier in fitted}.isdisjoint(outlier.kind for outlier in measured)
    assert len({outlier.source for outlier in measured}) >= 20


def test_every_picture_is_prepared_as_for_serving_and_no_two_are_alike(
    fitted: list[Outlier], measured: list[Outlier]
) -> None:
    pictures = [*fitted, *measured]
    assert all(outlier.image.shape == (56, 56) and outlier.image.dtype == np.uint8 for outlier in pictures)
    showing = [outlier.image.tobytes() for outlier in pictures if outlier.kind != "drawn blank"]
    assert len(set(showing)) > 0.98 * len(showing)


def test_a_seed_gives_the_same_pictures_and_another_one_others(fitted: list[Outlier]) -> None:
    again, other = fitting(SPEC), fitting(SPEC, seed=1)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(fitted, again, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(fitted, other, strict=True))


@pytest.mark.parametrize("name", [*FITTING, *MEASURING])
def test_a_drawing_has_the_asked_side_and_shows_something(name: str) -> None:
    draw = {**FITTING, **MEASURING}[name]
    pictures = [draw(np.random.default_rng(seed), 64) for seed in range(6)]
    assert all(picture.shape == (64, 64) and picture.dtype == np.uint8 for picture in pictures)
    assert max(np.ptp(picture) for picture in pictures) > (5 if name == "blank" else 60)


def test_spoiling_keeps_every_pixel_and_changes_the_picture() -> None:
    image = chest("xray", 1, seed=4)[0]
    for name, spoil in SPOILED.items():
        spoiled = spoil(image)
        assert spoiled.shape == image.shape
        assert not np.array_equal(spoiled, image)
        levels = np.sort(255 - spoiled if name == "negative" else spoiled, axis=None)
        np.testing.assert_array_equal(levels, np.sort(image, axis=None))


def test_a_jigsaw_holds_the_tiles_of_the_picture_in_another_order() -> None:
    tiles = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3) * 20, 18, axis=0), 18, axis=1)
    mixed = jigsaw(tiles, np.random.default_rng(0))
    assert sorted(mixed[9::18, 9::18].ravel().tolist()) == list(range(0, 180, 20))
    assert not np.array_equal(mixed, tiles)


def test_a_package_or_a_file_of_it_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "SHIPPED_FITTING", {"x": ("no_such_package/a.png",)})
    with pytest.raises(ConfigError, match="no_such_package is not installed"):
        fitting(SPEC)
    monkeypatch.setattr(outliers, "SHIPPED_FITTING", {"x": ("sklearn/datasets/images/no.png",)})
    with pytest.raises(ConfigError, match=r"does not carry no\.png"):
        fitting(SPEC)
