"""What every row is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.report import Found
from bench.sizes import Sizes

LOOK_SECONDS = 0.02
TIMEOUT_SECONDS = 600.0


def until(met: Callable[[], bool], what: str, pause: float = LOOK_SECONDS) -> None:
    """Return when `met` is, asked every `pause` seconds; TimeoutError, with `what` did not come, after minutes."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {TIMEOUT_SECONDS:.0f} s")
        time.sleep(pause)


def say(text: str) -> None:
    """One line, at once, even into a pipe."""
    print(text, flush=True)


@dataclass(frozen=True)
class Lab:
    """A folder of the row's own, how much to measure, and the model bundle where a real one is asked for."""

    folder: Path
    sizes: Sizes
    bundle: Path

    def rounds(self) -> Iterator[int]:
        """Yield the rounds, told as they begin."""
        for number in range(1, self.sizes.rounds + 1):
            say(f"  round {number} of {self.sizes.rounds}")
            yield number


@dataclass(frozen=True)
class Row:
    """A part of the bench that can run alone."""

    name: str
    about: str
    run: Callable[[Lab], Found]
