"""What the bench makes of its measurements, and of its images; speed itself is measured, never asserted."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from threading import Lock

import cv2
import httpx
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import plot
from bench.__main__ import chosen
from bench.http_load import MARK, Body, LoadFailed
from bench.http_load import read as read_load
from bench.images import SIDE, make_images, make_links, make_small, stamped_jpeg, stamped_png
from bench.load import OneByOne, Round, WrongAnswers, check_agreement
from bench.machine import ROOT, machine, revision, versions
from bench.report import Bar, Claim, Found, Spread, as_json, percentile, ratio, read, spread, table, write
from bench.rows import ROWS, end_to_end
from bench.rows.memory import watched
from tests.support.waiting import EVENT_SECONDS

SLOW, FAST = Claim("slow", Spread(2.0, 1.0, 3.0), Bar(3.0)), Claim("fast", Spread(2.0, 1.0, 3.0), Bar(1.5))


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
    # 4, 1 and 1. The medians alone, 4 and 2, would have said 2.
    assert ratio([4.0, 8.0, 2.0], [1.0, 8.0, 2.0]) == Spread(1.0, 1.0, 4.0)


def test_ratios_of_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("bar", "figure", "met"),
    [(Bar(3), 3, True), (Bar(3), 2.9, False), (Bar(20, at_most=True), 20, True), (Bar(20, at_most=True), 21, False)],
)
def test_a_bar_is_reached_or_not_exceeded(bar: Bar, figure: float, met: bool) -> None:
    assert bar.met(figure) is met


def test_a_claim_is_judged_by_its_median() -> None:
    assert (SLOW.met, FAST.met) == (False, True)


def test_the_results_name_everything_that_a_claim_needs(tmp_path: Path) -> None:
    context = {"machine": machine(tmp_path), "versions": versions(), "revision": revision()}
    found = Found([SLOW, FAST], {"rates": {"theirs": Spread(2.0, 1.0, 8.0 / 3)}, "count": 7})
    write(tmp_path / "results.json", {"rows": {"one": as_json(found, context)}})
    kept = read(tmp_path / "results.json")["rows"]["one"]
    assert kept["figures"] == {"rates": {"theirs": {"median": 2.0, "lowest": 1.0, "highest": 2.667}}, "count": 7}
    assert [(claim["what"], claim["bar"], claim["verdict"]) for claim in kept["claims"]] == [
        ("slow", ">= 3", "short"),
        ("fast", ">= 1.5", "pass"),
    ]
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["filesystem"]
    assert kept["versions"]["granian"]
    assert kept["revision"].keys() == {"commit", "modified"}


def test_no_results_yet_are_none(tmp_path: Path) -> None:
    assert read(tmp_path / "results.json") == {}


def test_the_table_shows_each_claim_with_its_bar_and_its_verdict_in_80_columns() -> None:
    out = io.StringIO()
    memory = Claim("memory", Spread(51.0, 50.0, 52.0), Bar(50, at_most=True), "MB")
    Console(file=out, width=80).print(table([FAST, memory]))
    rows = {name: next(line for line in out.getvalue().splitlines() if name in line) for name in ("fast", "memory")}
    assert ">= 1.5" in rows["fast"]
    assert "2 (1-3)" in rows["fast"]
    assert "pass" in rows["fast"]
    assert "<= 50 MB" in rows["memory"]
    assert "short" in rows["memory"]


def test_rows_are_chosen_by_name_and_run_in_the_order_of_the_bench() -> None:
    assert [row.name for row in chosen([])] == list(ROWS)
    assert [row.name for row in chosen(["polls", "stat"])] == ["stat", "polls"]
    with pytest.raises(typer.BadParameter, match="no such row: nonsense"):
        chosen(["polls", "nonsense"])


def test_the_bulk_path_is_compared_with_everybody_round_by_round() -> None:
    rates = {end_to_end.OURS: (80, 40), **dict.fromkeys(end_to_end.BARS, (10, 20))}
    rounds = {name: [Round(1.0, images) for images in both] for name, both in rates.items()}
    claims = end_to_end.claims(rounds)
    assert len(claims) == len(end_to_end.BARS)
    assert all(claim.measured == Spread(5.0, 2.0, 8.0) for claim in claims)


def test_who_sends_one_by_one_has_latencies_and_who_sends_a_zip_has_none() -> None:
    rounds = {"single": [Round(2.0, 4, [0.1, 0.2, 0.3, 0.4])], "zip": [Round(1.0, 4)]}
    found = end_to_end.figures_of(rounds)
    assert found["single"]["p50_seconds"].median == 0.2
    assert found["single"]["images_per_second"].median == 2.0
    assert found["zip"].keys() == {"images_per_second"}


def test_the_plot_shows_every_system(tmp_path: Path) -> None:
    rate = {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    systems = {"Thoraq, a ZIP": {"images_per_second": rate}, "Other": {"images_per_second": rate, "p95_seconds": rate}}
    svg, png = plot.draw({"systems": systems}, tmp_path)
    assert svg.read_text(encoding="utf-8").count("Other") >= 2
    assert "Thoraq, a ZIP" in svg.read_text(encoding="utf-8")
    assert cv2.imread(str(png)) is not None


def test_every_file_is_sent_once_and_answered_in_its_place() -> None:
    system, files = Echo(), [Path(f"{index}") for index in range(20)]
    measured = OneByOne(system, clients=4).run(files)
    assert system.called == 20
    assert [list(answer) for answer in measured.answers] == [[file.name] for file in files]
    assert len(measured.figures.latencies) == measured.figures.images == 20


def test_an_image_without_an_answer_ends_the_run() -> None:
    with pytest.raises(httpx.ConnectError):
        OneByOne(Echo(broken="3"), clients=2).run([Path(f"{index}") for index in range(8)])


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


def test_small_images_are_never_the_same_bytes_whatever_round_they_are_of(tmp_path: Path) -> None:
    files = make_small(tmp_path / "small", 8, "1") + make_small(tmp_path / "small", 8, "2")
    assert len({file.read_bytes() for file in files}) == 16


def test_a_large_archive_is_made_of_links_to_one_file(tmp_path: Path) -> None:
    files = make_links(tmp_path / "large", 5_000_000)
    assert {file.stat().st_ino for file in files} == {files[0].stat().st_ino}
    assert 3_500_000 <= sum(file.stat().st_size for file in files) <= 5_000_000


@pytest.mark.parametrize(("kind", "stamp"), [(".png", stamped_png), (".jpg", stamped_jpeg)])
def test_a_stamp_changes_the_bytes_and_not_the_picture(kind: str, stamp: object) -> None:
    assert callable(stamp)
    data = cv2.imencode(kind, np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes()
    other = stamp(data, "1")
    assert other != stamp(data, "2") != data
    before, after = (cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_UNCHANGED) for each in (data, other))
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)


def test_a_form_can_differ_in_every_request_and_stays_a_picture() -> None:
    jpeg = cv2.imencode(".jpg", np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes()
    form = Body("file", jpeg, {"classifier": "binary"}).encoded("border")
    assert form.count(MARK) == 1
    assert form.count(b"--border") == 3
    picture = form[form.index(b"\xff\xd8") :].replace(MARK, b"1234567812345678")
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED) is not None


def test_the_load_is_what_wrk_says_unless_requests_failed() -> None:
    output = "  1200 requests in 2.00s, 1.0MB read\nRequests/sec:    600.50\n"
    assert read_load(output) == (600.5, 1200)
    for line in ("  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"):
        with pytest.raises(LoadFailed, match=line.strip()[:10]):
            read_load(output + line)
    with pytest.raises(LoadFailed, match="no requests"):
        read_load("  0 requests in 2.00s, 0B read\nRequests/sec:      0.00\n")


def test_the_highest_memory_is_noticed_wherever_it_was() -> None:
    seen = iter([1_000_000, 5_000_000, 2_000_000])
    last, enough = 0, Lock()
    enough.acquire()

    def measure() -> int:
        nonlocal last
        last = next(seen, 0)
        if last == 0 and enough.locked():
            enough.release()
        return last

    with watched(measure) as peak:
        assert enough.acquire(timeout=EVENT_SECONDS)
    assert peak.growth_mb == 4.0


def test_the_bench_starts_without_the_packages_of_its_peers() -> None:
    code = "import bench.__main__, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()).isdisjoint({"bentoml", "litserve", "tensorflow"})
