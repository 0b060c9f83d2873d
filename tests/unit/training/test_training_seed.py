"""A random split flatters where neighbouring slices are alike; with runs of slices apart, it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigError
from training.data.images import Record
from training.seed import protocols


def test_what_only_tells_runs_of_slices_apart_is_worth_nothing_when_they_are_kept_apart() -> None:
    rng = np.random.default_rng(4)
    runs, slices = 40, 6
    centres = rng.normal(0, 1, (runs, 1920))
    means = np.repeat(centres, slices, axis=0) + rng.normal(0, 0.1, (runs * slices, 1920))
    records = [
        Record(Path(f"{run}-{number}.png"), ("covid19", "non_covid19")[run % 2], f"run{run}")
        for run in range(runs)
        for number in range(slices)
    ]
    found = protocols(means.astype(np.float32), records)
    assert found["random"]["scores"]["accuracy"] > 0.95
    assert found["random"]["images"] == runs * slices // 5
    assert found["apart"]["scores"]["accuracy"] < 0.7
    assert found["apart"]["images"] == runs * slices


def test_one_class_alone_is_no_protocol() -> None:
    records = [Record(Path(f"{number}.png"), "covid19", f"p{number}") for number in range(10)]
    with pytest.raises(ConfigError, match="slices without"):
        protocols(np.zeros((10, 1920), np.float32), records)
