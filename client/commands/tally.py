"""What a batch answered, counted: by class, by reason of a rejection, and how much of it a person is to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from client.batch_models import Batch, BatchResult
from client.models import JobResult

NO_ANSWER = ("failed", "cancelled", "quarantined", "rejected")


@dataclass
class Line:
    """Items with one answer, those of them that need review, and how often each reason was given for that."""

    answer: str
    items: int = 0
    review: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, result: JobResult) -> None:
        self.items += 1
        if result.needs_review:
            self.review += 1
            self.reasons.update(result.review_reasons)


def tally(batch: Batch, results: Iterable[BatchResult]) -> list[Line]:
    """Return a line per class, the most frequent first, then one per reason for which there is no class."""
    answered: dict[str, Line] = {}
    rejected: dict[str, Line] = {}
    for one in results:
        result = one.job.result
        if result is not None:
            lines, answer = (rejected, _rejection(result)) if result.rejected else (answered, result.prediction or "")
            lines.setdefault(answer, Line(answer)).add(result)
    return [*_by_frequency(answered.values()), *_by_frequency(rejected.values()), *_without_answer(batch)]


def _rejection(result: JobResult) -> str:
    return f"not classified: {(result.reason or 'rejected').replace('-', ' ')}"


def _by_frequency(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: -line.items)


def _without_answer(batch: Batch) -> Iterator[Line]:
    for state in NO_ANSWER:
        if items := getattr(batch.counts, state):
            yield Line(f"no answer: {state}", items)
