"""What is broken, and when: a pure function of the seed and the minutes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.settings import LEASE_SECONDS

#: Seconds between the beginnings of two faults.
GAP = (2.0, 5.0)
#: Seconds of peace for a victim before its next fault: a worker that never gets up does no work to be lost.
PEACE = {"classify": 25.0}
LEAST_PEACE = 3.0

#: What is done to whom, and how many seconds pass until it is undone.
KINDS: dict[tuple[str, str], tuple[float, float]] = {
    ("SIGKILL", "classify"): (0.2, 4),
    ("SIGKILL", "deliver"): (0.2, 4),
    ("SIGKILL", "beat"): (0.2, 6),
    ("SIGKILL", "api"): (0.2, 4),
    ("SIGKILL", "postgres"): (0.2, 5),
    ("SIGKILL", "redis"): (0.2, 6),
    # Longer than a lease: somebody else must take the jobs over, and the late commit must change nothing.
    ("SIGSTOP", "classify"): (LEASE_SECONDS + 1.5, LEASE_SECONDS + 4),
    ("SIGTERM", "classify"): (0.2, 2),
    ("FLUSHALL", "redis"): (0.2, 0.2),
    ("500", "receiver"): (2, 8),
    ("hang", "receiver"): (3, 8),
    ("down", "receiver"): (2, 8),
}


@dataclass(frozen=True)
class Fault:
    """`at` seconds after the beginning, for so many `seconds`."""

    at: float
    kind: str
    victim: str
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.victim}"

    @property
    def until(self) -> float:
        """When it is undone."""
        return self.at + self.seconds


def schedule(seed: int, minutes: float) -> list[Fault]:
    """Faults in the order of time, all undone before the end.

    Dealt as from a deck of cards, so that every kind comes now and then; no victim is hit while it is down. When only
    victims that are down are left in the deck, another is put below it.
    """
    dice = random.Random(f"faults {seed}")  # noqa: S311 - not a secret
    faults: list[Fault] = []
    deck: list[tuple[str, str]] = []
    free_at: dict[str, float] = {}
    at = dice.uniform(*GAP)
    while at < minutes * 60:
        if _next_free(deck, free_at, at) is None:
            deck += dice.sample(sorted(KINDS), len(KINDS))
        card = _next_free(deck, free_at, at)
        if card is not None:
            deck.remove(card)
            fault = Fault(round(at, 2), *card, round(dice.uniform(*KINDS[card]), 2))
            free_at[fault.victim] = fault.until + PEACE.get(fault.victim, LEAST_PEACE)
            faults.append(fault)
        at += dice.uniform(*GAP)
    return [fault for fault in faults if fault.until < minutes * 60]


def _next_free(deck: Sequence[tuple[str, str]], free_at: dict[str, float], at: float) -> tuple[str, str] | None:
    return next((card for card in deck if free_at.get(card[1], 0.0) <= at), None)
