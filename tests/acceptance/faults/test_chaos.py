"""A short run of `make chaos`: everything dies in turn, and nothing is lost, doubled, wrong or left undelivered."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tests.chaos.run import Options, run
from tests.chaos.settings import QUICK

# The seed whose first minute breaks most: workers killed and frozen, a full disk, lines of every engine.
SEED, JOBS, MINUTES = 1013, 250, 1.2


def test_a_minute_of_chaos_breaks_no_promise(tmp_path: Path) -> None:
    console = Console(highlight=False)
    verdict = run(Options(SEED, JOBS, MINUTES, QUICK), tmp_path, console.out)
    console.print(verdict.table)
    assert verdict.violations == []
