"""Which engine answers, given what was measured; and what is kept of it on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.cpu import Cpu
from shared.inference.engine_comparison import FOLDER, Comparison, Comparisons, compare

INT8, FLOAT32 = "openvino-int8", "openvino-float32"
CPU = Cpu("a CPU")
FOUND = Comparison(FLOAT32, {INT8: 14.0, FLOAT32: 16.0})


@pytest.mark.parametrize(
    ("int8", "float32", "chosen"),
    [(1.0, 4.0, INT8), (1.0, 1.0, INT8), (1.14, 1.0, INT8), (1.16, 1.0, FLOAT32), (2.0, 1.0, FLOAT32)],
)
def test_int8_answers_unless_it_is_clearly_slower(int8: float, float32: float, chosen: str) -> None:
    found = compare({INT8: int8, FLOAT32: float32}, 16, INT8, FLOAT32)
    assert found.engine == chosen
    assert found.images_per_second[INT8] == pytest.approx(16 / int8, abs=0.01)


def test_the_reason_says_how_much_faster() -> None:
    assert FOUND.reason == "openvino-float32 is 1.14 times as fast as openvino-int8 on this CPU"


def test_what_is_kept_is_recalled_by_its_key_alone(tmp_path: Path) -> None:
    Comparisons(tmp_path).keep("key", FOUND, CPU)
    assert Comparisons(tmp_path).recall("key") == FOUND
    assert Comparisons(tmp_path).recall("other") is None
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["key.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"engine": "x", "images_per_second": [1]}'])
def test_a_damaged_file_is_measured_again(tmp_path: Path, content: str) -> None:
    known = Comparisons(tmp_path)
    known.keep("key", FOUND, CPU)
    (tmp_path / FOLDER / "key.json").write_text(content)
    with capture_logs() as logs:
        assert known.recall("key") is None
    assert [entry["event"] for entry in logs] == ["engine.comparison_not_kept"]


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    known = Comparisons(tmp_path / "file")
    with capture_logs() as logs, known.alone():
        known.keep("key", FOUND, CPU)
        assert known.recall("key") is None
    assert {entry["event"] for entry in logs} == {"engine.comparison_not_kept"}
