"""`python -m bench` as `make bench` calls it, at its small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_row_runs_alone_and_is_kept_beside_those_that_were_there(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    out.write_text('{"rows": {"other": "stays"}}', encoding="utf-8")
    command = [sys.executable, "-m", "bench", "fairness", "queue-path", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert rows["other"] == "stays"
    assert rows["fairness"]["quick"] is True
    (claim,) = rows["fairness"]["claims"]
    assert claim["bar"] == ">= 0.45"
    assert 0 < claim["measured"]["median"] < 1
    assert rows["queue-path"]["figures"]["jobs_per_second"]["thoraq"]["median"] > 0
