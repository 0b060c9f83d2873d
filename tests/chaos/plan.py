"""What the clients send, and when: a pure function of the seed, the jobs and the minutes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from client.models import Classifier, Modality
from standalone.samples import Sample
from tests.chaos.pictures import picture

#: Of every hundred requests, so many are batches, every other one a ZIP; so many are cancelled; so many single jobs
#: are waited for.
BATCHES, CANCELS, WAITS = 14, 6, 25
#: Of every hundred requests, so many are sent again after they were answered.
REPEATS = 20
BATCH_SIZE = (2, 24)
#: Requests come in bursts, so many seconds apart: a worker that has always just finished has nothing to lose.
BURST_SECONDS = 5
#: Pictures for every hundred jobs: some come twice, and are answered from the first result.
PICTURES = 80
CLASSIFIERS: tuple[Classifier, ...] = ("binary", "ensemble")

Body = Literal["job", "form", "zip"]


@dataclass(frozen=True)
class Ask:
    """A classifier's run over one study; the answer is known."""

    files: tuple[Path, ...]
    modality: Modality | None
    classifier: Classifier

    @cached_property
    def identity(self) -> tuple[str, tuple[str, ...]]:
        """The classifier and the files' SHA-256: what it is in the database."""
        return self.classifier, tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files)


@dataclass(frozen=True)
class Submission:
    """One request, `at` seconds after the beginning; its key is its Idempotency-Key and its external_id."""

    at: float
    key: str
    asks: tuple[Ask, ...]
    body: Body
    cancels: bool
    waits: bool
    repeats: bool

    @property
    def batch(self) -> bool:
        return self.body != "job"


def draw(folder: Path, jobs: int) -> list[Ask]:
    """Pictures for so many jobs, in files of the folder, each for one of the classifiers."""
    folder.mkdir(parents=True)
    asks = []
    for number in range(max(1, jobs * PICTURES // 100)):
        file = folder / f"{number}.png"
        file.write_bytes(picture(number))
        # Every other eight, so that each classifier sees each grey.
        asks.append(Ask((file,), "xray", CLASSIFIERS[number // 8 % 2]))
    return asks


def asks_of(samples: Sequence[Sample]) -> list[Ask]:
    """Every sample with every classifier that it is for."""
    return [
        Ask(tuple(sample.files), sample.modality, classifier) for sample in samples for classifier in sample.classifiers
    ]


def plan(seed: int, jobs: int, minutes: float, asks: Sequence[Ask]) -> list[Submission]:
    """Requests in the order of time, `jobs` jobs in all, spread over the minutes."""
    dice = random.Random(f"requests {seed}")  # noqa: S311 - not a secret
    planned: list[Submission] = []
    left = jobs
    while left > 0:
        key = f"chaos-{seed}-{len(planned)}"
        at = minutes * 60 * (jobs - left) / jobs // BURST_SECONDS * BURST_SECONDS
        planned.append(_submission(dice, at, key, asks, left))
        left -= len(planned[-1].asks)
    return planned


def _submission(dice: random.Random, at: float, key: str, asks: Sequence[Ask], left: int) -> Submission:
    batch = left >= BATCH_SIZE[0] and dice.randrange(100) < BATCHES
    body: Body = dice.choice(("form", "zip")) if batch else "job"
    return Submission(
        at=at,
        key=key,
        asks=_batch(dice, asks, left) if batch else (dice.choice(asks),),
        body=body,
        cancels=dice.randrange(100) < CANCELS,
        waits=not batch and dice.randrange(100) < WAITS,
        repeats=dice.randrange(100) < REPEATS,
    )


def _batch(dice: random.Random, asks: Sequence[Ask], left: int) -> tuple[Ask, ...]:
    """A batch has one classifier, one modality, and one file for each study."""
    alike = [ask for ask in asks if ask.modality == "xray" and len(ask.files) == 1]
    classifier = dice.choice(sorted({ask.classifier for ask in alike}))
    same = [ask for ask in alike if ask.classifier == classifier]
    return tuple(dice.choices(same, k=min(left, dice.randint(*BATCH_SIZE))))
