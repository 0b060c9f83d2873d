"""The load: clients that each send one image, wait for its answer, and send the next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.report import Round
from shared.errors import ThoraqError

#: Engines may add in another order when images go through them together; a difference above this is another answer.
TOLERANCE = 0.005


class System(Protocol):
    """Something that classifies X-rays over HTTP, and is up."""

    name: str

    def classify(self, file: Path) -> Mapping[str, float]:
        """Send one image, wait for its answer: probability by class. Called from many threads."""


class WrongAnswers(ThoraqError):
    """Two systems with one model disagree, so their speeds say nothing."""

    type, title = "wrong-answers", "Systems disagree"
    remedy = "Compare how the two decode, prepare and infer."


class Measured(NamedTuple):
    """One round of one system: its figures, and what it answered to each file."""

    figures: Round
    answers: list[Mapping[str, float]]


def measure(system: System, files: Sequence[Path], clients: int) -> Measured:
    """Send `files` from `clients` threads; the time runs from the first byte sent to the last answer received.

    An answer that is not one raises, and ends the run: a system that drops work is not fast.
    """

    def one(file: Path) -> tuple[Mapping[str, float], float]:
        began = time.perf_counter()
        return system.classify(file), time.perf_counter() - began

    pool = ThreadPoolExecutor(clients, "client")
    try:
        began = time.perf_counter()
        done = list(pool.map(one, files))
        seconds = time.perf_counter() - began
    finally:
        # After an error or Ctrl-C the files that nobody has sent yet stay unsent.
        pool.shutdown(cancel_futures=True)
    return Measured(Round(seconds, [latency for _, latency in done]), [answer for answer, _ in done])


def check_agreement(expected: Sequence[Mapping[str, float]], found: Sequence[Mapping[str, float]], name: str) -> None:
    """WrongAnswers when a system's probabilities are not the expected ones, file by file."""
    for wanted, given in zip(expected, found, strict=True):
        if wanted.keys() != given.keys() or any(abs(wanted[key] - given[key]) > TOLERANCE for key in wanted):
            raise WrongAnswers(f"{name} answers other probabilities than Thoraq")
