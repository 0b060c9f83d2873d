"""The lung finder learns where two dark ovals lie on pictures that it never saw, and says it in fractions."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.errors import ConfigError
from shared.imaging.lungs import FEATURES, Box, LungFinder, Lungs, around, crop, features, inside, outside, thumbnail
from training import lungs

IMAGES = 40


def chest(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright backbone with two dark ovals, and their corners in fractions."""
    height, width = rng.integers(150, 260, 2)
    picture = np.full((height, width), 190, np.uint8)
    corners = []
    top, bottom = rng.uniform(0.08, 0.2), rng.uniform(0.7, 0.9)
    for left in (rng.uniform(0.08, 0.18), rng.uniform(0.53, 0.6)):
        right = left + rng.uniform(0.28, 0.34)
        centre = (round((left + right) / 2 * width), round((top + bottom) / 2 * height))
        axes = (round((right - left) / 2 * width), round((bottom - top) / 2 * height))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, 60, -1)
        corners += [left, top, right, bottom]
    noise = rng.normal(0, 6, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), np.array(corners, np.float32)


@pytest.fixture(scope="module")
def drawn() -> lungs.Drawn:
    rng = np.random.default_rng(5)
    images, corners = zip(*(chest(rng) for _ in range(IMAGES)), strict=True)
    small = [thumbnail(image) for image in images]
    return lungs.Drawn(small, np.stack(corners), np.array([f"p{number // 2}" for number in range(IMAGES)]))


def test_boxes_are_found_on_patients_that_fitting_did_not_see(drawn: lungs.Drawn) -> None:
    held = np.arange(IMAGES) >= IMAGES - 10
    finder = lungs.fit(drawn.some(np.flatnonzero(~held)))
    found = lungs.find_all(finder, drawn.some(np.flatnonzero(held)).images)
    wanted = drawn.corners[held]
    assert lungs.overlap(lungs.both(found), lungs.both(wanted)).min() > 0.8
    assert lungs.overlap(found[:, :4], wanted[:, :4]).mean() > 0.8
    again = LungFinder.of(finder.arrays())
    assert again.find(drawn.images[0]) == finder.find(drawn.images[0])


def test_arrays_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="lung finder"):
        LungFinder.of({})
    with pytest.raises(ValueError, match="lung finder"):
        LungFinder.of({"kernel_0": np.zeros((3, 8)), "bias_0": np.zeros(8)})


def test_features_do_not_change_with_a_picture_that_is_evenly_brighter() -> None:
    rng = np.random.default_rng(2)
    image = thumbnail(chest(rng)[0] // 2)
    window = np.array([0, 0, 1, 1], np.float32)
    assert features(image, window).shape == (FEATURES,)
    plain, brighter = features(image, window), features(image + 40, window)
    assert np.abs(plain - brighter).mean() < 0.1 * np.abs(plain).mean()


def test_windows_are_left_as_they_were_entered() -> None:
    corners = np.array([0.1, 0.2, 0.4, 0.8, 0.5, 0.2, 0.9, 0.7], np.float32)
    window = around(corners)
    assert window == pytest.approx([-0.1, 0.05, 1.1, 0.95])
    assert outside(inside(corners, window), window) == pytest.approx(corners)


def test_the_mirror_image_has_the_other_lung_on_each_side() -> None:
    corners = np.array([0.1, 0.2, 0.4, 0.8, 0.5, 0.3, 0.9, 0.7], np.float32)
    assert lungs.mirrored(corners) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.6, 0.2, 0.9, 0.8])
    assert lungs.mirrored(lungs.mirrored(corners)) == pytest.approx(corners)


def test_a_crop_is_the_box_with_its_margin_within_the_picture() -> None:
    picture = np.arange(200 * 100, dtype=np.uint32).astype(np.uint8).reshape(200, 100)
    part = crop(picture, Box(0.2, 0.25, 0.7, 0.75), 0.1)
    assert part.shape == (120, 60)
    assert part[0, 0] == picture[40, 15]
    assert crop(picture, Box(-0.5, 0, 1.5, 2), 0.5).shape == (200, 100)
    assert crop(picture, Box(0.5, 0.5, 0.5, 0.5), 0.0).shape == (1, 1)
    lungs_both = Lungs(Box(0.1, -0.1, 0.4, 0.8), Box(0.5, 0.1, 1.2, 0.9)).both
    assert lungs_both == Box(0.1, 0.0, 1.0, 0.9)


def test_the_command_fits_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    folder = tmp_path / "cxr"
    folder.mkdir()
    with (folder / "index.csv").open("w", newline="") as index, (tmp_path / "lungs.csv").open("w", newline="") as boxes:
        rows, drawn_rows = csv.writer(index), csv.writer(boxes)
        rows.writerow(["file", "label", "patient"])
        drawn_rows.writerow(["file", *lungs.CORNERS])
        for number in range(10):
            picture, corners = chest(rng)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
            rows.writerow([f"{number}.png", "normal", f"p{number // 2}"])
            drawn_rows.writerow([f"cxr/{number}.png", *corners.tolist()])
    read = lungs.read_drawn(tmp_path)
    assert sorted(set(read.patients.tolist())) == [f"p{number}" for number in range(5)]
    lungs.main(data=tmp_path, out=tmp_path / "finder.safetensors", measure=True)
    said = capsys.readouterr().out
    assert "right: 0." in said
    assert "both: 0." in said
    assert len(LungFinder.of(load_file(tmp_path / "finder.safetensors")).stages) == 3


def test_a_list_of_boxes_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no lungs\.csv"):
        lungs.read_drawn(tmp_path)
    (tmp_path / "lungs.csv").write_text("file,right_x0\na.png,0.1\n")
    with pytest.raises(ConfigError, match="left_y1"):
        lungs.read_drawn(tmp_path)
