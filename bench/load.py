"""The load: clients that each send one image, wait for its answer, and send the next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from shared.errors import ThoraqError

#: Engines may add in another order when images go through them together; a difference above this is another answer.
TOLERANCE = 0.005
#: Between int8 and float32. The bundle's card says how often it is another label.
ENGINE_TOLERANCE = 0.1
Answers = list[Mapping[str, float]]


@dataclass(frozen=True)
class Round:
    """One round of one contestant: the seconds that it took for how many images.

    `latencies` are the seconds of each image, where images were sent one by one.
    """

    seconds: float
    images: int
    latencies: list[float] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        """End to end, from the first byte sent to the last answer received."""
        return self.images / self.seconds


class System(Protocol):
    """Something that classifies X-rays over HTTP, and is up."""

    name: str

    def classify(self, file: Path) -> Mapping[str, float]:
        """Send one image, wait for its answer: probability by class. Called from many threads."""


class Contestant(Protocol):
    """Something that classifies files, in whatever way it does that best."""

    name: str

    def run(self, files: Sequence[Path]) -> Measured:
        """Classify all of them; an image without an answer raises, for a system that drops work is not fast."""


class WrongAnswers(ThoraqError):
    """Two systems with one model disagree, so their speeds say nothing."""

    type, title = "wrong-answers", "Systems disagree"
    remedy = "Compare how the two decode, prepare and infer."


class Measured(NamedTuple):
    """One round of one contestant: its figures, and what it answered to each file."""

    figures: Round
    answers: Answers


class OneByOne:
    """A system under `clients` threads, each of which waits for its answer before it sends the next file."""

    def __init__(self, system: System, clients: int) -> None:
        self.name = system.name
        self._system, self._clients = system, clients

    def run(self, files: Sequence[Path]) -> Measured:
        """Measure the time from the first byte sent to the last answer received."""

        def one(file: Path) -> tuple[Mapping[str, float], float]:
            began = time.perf_counter()
            return self._system.classify(file), time.perf_counter() - began

        pool = ThreadPoolExecutor(self._clients, "client")
        try:
            began = time.perf_counter()
            done = list(pool.map(one, files))
            seconds = time.perf_counter() - began
        finally:
            # After an error or Ctrl-C the files that nobody has sent yet stay unsent.
            pool.shutdown(cancel_futures=True)
        latencies = [latency for _, latency in done]
        return Measured(Round(seconds, len(done), latencies), [answer for answer, _ in done])


def check_agreement(expected: Answers, found: Answers, name: str, tolerance: float = TOLERANCE) -> None:
    """WrongAnswers when a contestant's probabilities are not the expected ones, file by file."""
    for wanted, given in zip(expected, found, strict=True):
        if wanted.keys() != given.keys() or any(abs(wanted[key] - given[key]) > tolerance for key in wanted):
            raise WrongAnswers(f"{name} answers other probabilities than the engine alone")
