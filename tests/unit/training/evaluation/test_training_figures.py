"""Figures are PNG files of the promised size that show what they were given."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import ConfigError
from training.evaluation.figures import FALSE_ALARMS, confusion, curves, head_figures, heights_of

CLASSES = ("normal", "pneumonia", "covid19")


def size_of(picture: Path) -> tuple[int, int]:
    """Width and height that a PNG file's header gives (ISO/IEC 15948, 11.2.2)."""
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def predictions(count: int) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    rng = np.random.default_rng(0)
    numbers = rng.integers(3, size=count)
    return rng.dirichlet([1, 1, 1], count) / 2 + np.eye(3)[numbers] / 2, numbers, [f"p{n // 2}" for n in range(count)]


def test_every_head_gets_three_pictures_900_pixels_wide(tmp_path: Path) -> None:
    files = head_figures(tmp_path, "ensemble-xray", *predictions(60)[:2], CLASSES, predictions(60)[2])
    assert files == ["ensemble-xray-confusion.png", "ensemble-xray-roc.png", "ensemble-xray-reliability.png"]
    assert {size_of(tmp_path / file)[0] for file in files} == {900}


def test_the_same_numbers_make_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        head_figures(tmp_path, name, *predictions(30)[:2], CLASSES, predictions(30)[2])
        confusion(tmp_path / f"{name}.png", "a head", *predictions(30)[:2], CLASSES)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one-roc.png").stat().st_size > 10_000


def test_a_class_that_does_not_occur_has_no_curve_and_is_no_error(tmp_path: Path) -> None:
    probabilities, _, patients = predictions(12)
    head_figures(tmp_path, "x", probabilities, np.zeros(12, np.int64), CLASSES, patients)
    assert size_of(tmp_path / "x-roc.png")[0] == 900


def test_the_darkest_cell_of_a_confusion_matrix_is_the_fullest(tmp_path: Path) -> None:
    numbers = np.repeat([0, 1], [10, 10])
    confusion(tmp_path / "c.png", "a head", np.eye(2)[np.repeat([0, 1], [19, 1])], numbers, ("covid19", "not_covid19"))
    grey = cv2.imread(str(tmp_path / "c.png"), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    # In the cells' corners, clear of their numbers. All of COVID-19 is found; so are, wrongly, nine in ten of the rest.
    height, width = grey.shape
    (hit, missed), (wrong, right) = (
        [int(grey[int(height * y), int(width * x)]) for x in (0.3, 0.7)] for y in (0.1, 0.85)
    )
    assert hit < wrong < right < missed


def test_a_roc_curve_rises_where_the_positives_are() -> None:
    truth = np.array([True, True, False, True, False])
    # Scores 0.9, 0.8, 0.7, 0.7, 0.1: the two of 0.7 stand or fall together.
    heights = heights_of(np.ones(5, np.int64), truth, np.array([0, 1, 3, 4]))
    assert heights[FALSE_ALARMS == 0] == pytest.approx(2 / 3)
    assert heights[FALSE_ALARMS == 0.25] == pytest.approx(2 / 3 + 1 / 6)
    assert heights[FALSE_ALARMS == 0.5] == pytest.approx(1)
    # A draw may leave the positives out.
    assert np.isnan(heights_of(np.array([0, 0, 1, 0, 1]), truth, np.array([0, 1, 3, 4]))).all()


def test_curves_have_a_panel_for_each_measure(tmp_path: Path) -> None:
    rows = [{"stage": "head", "loss": str(1 / n), "val_loss": str(2 / n)} for n in range(1, 6)]
    curves(tmp_path / "one.png", rows)
    curves(tmp_path / "two.png", [*rows, {"stage": "upper", "loss": 0.1, "val_loss": "", "accuracy": 0.9}])
    one, two = size_of(tmp_path / "one.png"), size_of(tmp_path / "two.png")
    assert one[0] == two[0] == 900
    assert two[1] > one[1] + 300


@pytest.mark.parametrize("rows", [[], [{"stage": "head", "step": 1}]])
def test_an_empty_log_is_an_error(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    with pytest.raises(ConfigError, match="no measures"):
        curves(tmp_path / "none.png", rows)
