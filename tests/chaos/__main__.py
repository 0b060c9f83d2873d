"""`python -m tests.chaos --seed N --jobs N --minutes N`: exit 1 when the promise was broken."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from tests.chaos.run import Options, run
from tests.chaos.settings import QUICK, SHIPPED

JOBS_A_MINUTE = 200
JOBS_A_MINUTE_REAL = 60  # what the real models do on two cores, with time to get up after each fault
SHOWN = 50


def main(
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same faults and requests.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Jobs in all; 200 a minute, with --real 60.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=240, help="How long faults go on.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Leases of seconds instead of the shipped settings.")] = False,
    real: Annotated[bool, typer.Option("--real", help="The real models on the samples, by one worker.")] = False,
    engine: Annotated[
        Literal["processes", "compose"],
        typer.Option(help="What is broken: processes, or containers."),
    ] = "processes",
    data: Annotated[Path | None, typer.Option(help="A new folder to work in, which is kept.")] = None,
) -> None:
    """Kill parts at random, then check that nothing was lost."""
    console = Console(highlight=False, soft_wrap=True)
    seed = random.SystemRandom().randrange(10_000) if seed is None else seed
    folder = data or Path(tempfile.mkdtemp(prefix="thoraq-chaos-"))
    pace = QUICK if quick else SHIPPED
    if real:
        pace = replace(pace, workers=1, getting_up_seconds=25.0)
    jobs = jobs or round(minutes * (JOBS_A_MINUTE_REAL if real else JOBS_A_MINUTE))
    verdict = run(Options(seed, jobs, minutes, pace, real, engine == "compose"), folder, console.out)
    console.print(verdict.table)
    for note in verdict.notes:
        console.out(f"note: {note}")
    for violation in verdict.violations[:SHOWN]:
        console.out(f"VIOLATION: {violation}")
    if verdict.violations:
        console.out(f"{len(verdict.violations)} violations; the logs are kept in {folder}")
        raise typer.Exit(1)
    if data is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
