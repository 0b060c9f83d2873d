"""A short run of `make chaos`: everything dies in turn, and nothing is lost, doubled, wrong or left undelivered."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tests.chaos.run import run

SEED, JOBS, MINUTES = 11, 80, 0.6


def test_half_a_minute_of_chaos_breaks_no_promise(tmp_path: Path) -> None:
    console = Console(highlight=False)
    verdict = run(SEED, JOBS, MINUTES, tmp_path, console.out)
    console.print(verdict.table)
    assert verdict.violations == []
