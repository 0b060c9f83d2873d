"""`python -m tests.siege --seed N --seconds N --costs N`: exit 1 when somebody could stop another."""

from __future__ import annotations

import os
import random
import resource
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from standalone.services import free_port
from standalone.stack import Stack
from tests.siege.costs import search
from tests.siege.run import Options, run

SHOWN = 50
#: Connections that say nothing, and as many that wait; and what else a process may have open.
CROWD, SPARE = 5_000, 1_000
#: A stand-in for the model, about as fast as the real one on two cores.
ENGINE = {"THORAQ_ENGINE": "stand-in", "THORAQ_STAND_IN_RATE": "100"}


def main(
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same order and files.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long each attack goes on.")] = 20,
    costs: Annotated[float, typer.Option(min=0, help="Seconds for the search for the dearest files.")] = 120,
) -> None:
    """Attack a whole system as one hospital and some strangers, and time another hospital meanwhile."""
    console = Console(highlight=False, soft_wrap=True)
    seed = random.SystemRandom().randrange(10_000) if seed is None else seed
    console.out(f"seed {seed}")
    dear = search(seed, costs, console.out)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")} | ENGINE
    with (
        tempfile.TemporaryDirectory(prefix="thoraq-siege-") as folder,
        Stack(Path(folder), port=free_port(), environ=environ, say=console.out) as stack,
    ):
        verdict = run(stack, Options(seed, seconds, seconds, alone=True, crowd=_crowd()), console.out)
    console.print(verdict.table)
    found = [*dear, *verdict.broken, *verdict.slow]
    for line in found[:SHOWN]:
        console.out(f"VIOLATION: {line}")
    if found:
        raise typer.Exit(1)


def _crowd() -> int:
    """Return how many connections this process can hold twice, beside what else it has open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(CROWD, (most - SPARE) // 2)


if __name__ == "__main__":
    typer.run(main)
