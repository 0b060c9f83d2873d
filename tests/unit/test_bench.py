"""What the bench makes of its measurements, and of its images; speed itself is measured, never asserted."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from threading import Lock

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.images import SIDE, make_images, stamped
from bench.load import WrongAnswers, check_agreement, measure
from bench.machine import machine, revision, versions
from bench.report import Round, Spread, as_json, percentile, ratios, spread, table, write

ROUNDS = {
    "ours": [Round(2.0, [0.1] * 8), Round(1.0, [0.2] * 8), Round(4.0, [0.3] * 8)],  # 4, 8 and 2 images/s
    "theirs": [Round(8.0, [0.4] * 8), Round(1.0, [0.4] * 8), Round(4.0, [0.9] * 8)],  # 1, 8 and 2 images/s
}


class Echo:
    """A system that answers at once, by the file's name; `broken` is the file that it drops."""

    name = "echo"

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.calls = count(1)
        self.called = 0
        self.lock = Lock()

    def classify(self, file: Path) -> Mapping[str, float]:
        with self.lock:
            self.called = next(self.calls)
        if file.name == self.broken:
            raise httpx.ConnectError("gone")
        return {file.name: 1.0}


def test_a_spread_is_the_median_and_both_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no round"):
        spread([])


@pytest.mark.parametrize(("percent", "value"), [(1, 10), (50, 20), (51, 30), (75, 30), (95, 40), (100, 40)])
def test_a_percentile_is_by_nearest_rank(percent: float, value: float) -> None:
    assert percentile([40, 10, 30, 20], percent) == value


@given(st.lists(st.floats(0, 100), min_size=1), st.integers(1, 100))
def test_a_percentile_covers_its_share_and_no_smaller_value_does(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_that_means_nothing_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


def test_ratios_are_taken_within_each_round() -> None:
    # 4, 1 and 1. The median rates alone, 4 and 2, would have said 2.
    assert ratios(ROUNDS, "ours") == {"theirs": Spread(1.0, 1.0, 4.0)}


def test_ratios_of_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios({"ours": ROUNDS["ours"], "theirs": ROUNDS["theirs"][:1]}, "ours")


def test_the_results_name_everything_that_a_claim_needs(tmp_path: Path) -> None:
    context = {"machine": machine(tmp_path), "versions": versions(), "revision": revision()}
    write(tmp_path / "results.json", as_json(ROUNDS, "ours", context))
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert kept["systems"]["theirs"]["images_per_second"] == {"median": 2.0, "lowest": 1.0, "highest": 8.0}
    assert kept["systems"]["ours"]["p95_seconds"]["median"] == 0.2
    assert kept["ratios"] == {"theirs": {"median": 1.0, "lowest": 1.0, "highest": 4.0}}
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["filesystem"]
    assert kept["versions"]["granian"]
    assert kept["revision"].keys() == {"commit", "modified"}


def test_the_table_shows_each_system_whole_in_80_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(
        table({"Thoraq": ROUNDS["ours"], "synchronous Flask": ROUNDS["theirs"]}, "Thoraq")
    )
    row = next(line for line in out.getvalue().splitlines() if "synchronous Flask" in line)
    assert "2.0" in row
    assert "0.40" in row
    assert "1.00 (1.00-4.00)" in row


def test_every_file_is_sent_once_and_answered_in_its_place() -> None:
    system, files = Echo(), [Path(f"{index}") for index in range(20)]
    measured = measure(system, files, clients=4)
    assert system.called == 20
    assert [list(answer) for answer in measured.answers] == [[file.name] for file in files]
    assert len(measured.figures.latencies) == 20


def test_an_image_without_an_answer_ends_the_run() -> None:
    with pytest.raises(httpx.ConnectError):
        measure(Echo(broken="3"), [Path(f"{index}") for index in range(8)], clients=2)


def test_systems_that_disagree_are_not_compared() -> None:
    check_agreement([{"a": 0.5}], [{"a": 0.501}], "peer")
    for other in ({"a": 0.6}, {"b": 0.5}):
        with pytest.raises(WrongAnswers, match="peer"):
            check_agreement([{"a": 0.5}], [other], "peer")


def test_images_are_real_pictures_of_the_promised_size_and_never_the_same_bytes(tmp_path: Path) -> None:
    rounds = make_images(tmp_path / "images", count=6, rounds=2)
    files = [file for one in rounds for file in one]
    assert [len(one) for one in rounds] == [6, 6]
    assert len({file.read_bytes() for file in files}) == 12
    picture = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.shape == (SIDE, SIDE)
    assert np.std(picture) > 10


def test_a_stamp_changes_the_bytes_and_not_the_picture() -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    png = cv2.imencode(".png", picture)[1].tobytes()
    other = stamped(png, "1")
    assert other != stamped(png, "2") != png
    decoded = cv2.imdecode(np.frombuffer(other, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert np.array_equal(decoded, picture)
