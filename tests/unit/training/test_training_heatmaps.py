"""A heatmap's share on the lungs is that of its sum within the boxes, and is given with what chance would give."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.bundles.brightness import tiny_bundle
from training import heatmaps
from training.lungs import CORNERS

LEFT_HALF = np.array([0, 0, 0.25, 1, 0.25, 0, 0.5, 1], np.float32)


def test_what_lies_within_the_boxes_is_counted_once() -> None:
    inside = heatmaps.mask(LEFT_HALF)
    assert inside.mean() == pytest.approx(0.5)
    assert heatmaps.share_inside(np.ones((7, 7), np.float32), inside) == pytest.approx(0.5)
    heat = np.zeros((8, 8), np.float32)
    heat[:, :2] = 1
    assert heatmaps.share_inside(heat, inside) > 0.99
    assert np.isnan(heatmaps.share_inside(np.zeros((7, 7), np.float32), inside))
    overlapping = np.array([0, 0, 0.5, 1, 0.2, 0, 0.5, 1], np.float32)
    assert heatmaps.mask(overlapping).max() == 1


def test_the_command_measures_the_xray_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cxr"
    folder.mkdir()
    with (folder / "index.csv").open("w", newline="") as index, (tmp_path / "lungs.csv").open("w", newline="") as boxes:
        rows, drawn = csv.writer(index), csv.writer(boxes)
        rows.writerow(["file", "label", "patient"])
        drawn.writerow(["file", *CORNERS])
        for number in range(4):
            cv2.imwrite(str(folder / f"{number}.png"), np.full((80, 80), 220, np.uint8))
            rows.writerow([f"{number}.png", "covid19", f"p{number}"])
            drawn.writerow([f"cxr/{number}.png", *LEFT_HALF.tolist()])
    bundle = tiny_bundle(tmp_path / "tiny")
    heatmaps.main(bundle=bundle.path, data=tmp_path, engine="tensorflow", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"binary-xray", "ensemble-xray"}
    assert found["binary-xray"]["images"] + found["binary-xray"]["empty"] == 4
    # A picture of one brightness has the same heat everywhere.
    assert found["binary-xray"]["median"] == pytest.approx(found["binary-xray"]["chance"], abs=0.02)
