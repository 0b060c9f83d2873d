"""What is broken, and when: a pure function of the seed, the minutes and the pace."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.settings import Pace

#: Seconds between the beginnings of two faults.
GAP = (2.0, 5.0)
#: Seconds of peace for a victim before its next fault; a classify worker gets its time to get up.
PEACE_SECONDS = 3.0
AT_ONCE = (0.2, 0.2)
#: What is done to a process, or by a client of it; the rest is done to the lines between them.
AT_HAND = {"SIGKILL", "SIGTERM", "SIGSTOP", "FLUSHALL"}

#: What is done to whom, and how many seconds pass until it is undone.
KINDS: dict[tuple[str, str], tuple[float, float]] = {
    ("SIGKILL", "deliver"): (0.2, 4),
    ("SIGKILL", "beat"): (0.2, 6),
    ("SIGKILL", "api"): (0.2, 4),
    ("SIGKILL", "postgres"): (0.2, 5),
    ("SIGKILL", "redis"): (0.2, 6),
    ("SIGTERM", "deliver"): (0.2, 2),
    ("SIGTERM", "api"): (0.2, 2),
    ("SIGTERM", "postgres"): (0.2, 5),
    ("SIGTERM", "redis"): (0.2, 6),
    ("SIGSTOP", "deliver"): (2, 8),
    ("SIGSTOP", "redis"): (3, 12),
    ("FLUSHALL", "redis"): AT_ONCE,
    ("full", "disk"): (2, 6),
    ("500", "receiver"): (2, 8),
    ("hang", "receiver"): (3, 8),
    ("down", "receiver"): (2, 8),
    ("redirect", "receiver"): (2, 8),
    **{("reset", line): AT_ONCE for line in ("api", "postgres", "redis", "store", "receiver")},
    **{("delay", line): (2, 8) for line in ("api", "postgres", "redis", "store", "receiver")},
    **{("black-hole", line): (2, 8) for line in ("api", "postgres", "redis", "store", "receiver")},
    **{("refuse", line): (2, 6) for line in ("api", "postgres", "redis", "store")},
    ("half-open", "redis"): AT_ONCE,
    ("cut", "store"): (2, 6),
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


#: The same for containers: the network takes the place of the proxies before the engines.
CONTAINER_KINDS: dict[tuple[str, str], tuple[float, float]] = {
    **{card: seconds for card, seconds in KINDS.items() if card[1] in {"deliver", "beat", "api", "receiver", "disk"}},
    **{card: seconds for card, seconds in KINDS.items() if card[1] in {"postgres", "redis"} and card[0] in AT_HAND},
    ("SIGKILL", "store"): (0.2, 5),
    ("SIGTERM", "store"): (0.2, 5),
    **{("disconnect", service): (2, 8) for service in ("postgres", "redis", "store", "deliver", "beat", "classify")},
}


def kinds(
    pace: Pace, common: Mapping[tuple[str, str], tuple[float, float]] = KINDS
) -> dict[tuple[str, str], tuple[float, float]]:
    """All kinds, with what is done to the classify workers."""
    # Longer than a lease: somebody else must take the jobs over, and the late commit must change nothing.
    frozen = (pace.lease_seconds + 1.5, pace.lease_seconds + 4)
    found = dict(common)
    for worker in pace.classifiers:
        found |= {("SIGKILL", worker): (0.2, 4), ("SIGTERM", worker): (0.2, 2), ("SIGSTOP", worker): frozen}
    return found


def schedule(
    seed: int, minutes: float, pace: Pace, common: Mapping[tuple[str, str], tuple[float, float]] = KINDS
) -> list[Fault]:
    """Faults in the order of time, all undone before the end.

    Dealt as from a deck of cards, so that every kind comes now and then; no victim is hit while it is down. When only
    victims that are down are left in the deck, another is put below it.
    """
    dice = random.Random(f"faults {seed}")  # noqa: S311 - not a secret
    cards, peace = kinds(pace, common), dict.fromkeys(pace.classifiers, pace.getting_up_seconds)
    faults: list[Fault] = []
    deck: list[tuple[str, str]] = []
    free_at: dict[str, float] = {}
    at = dice.uniform(*GAP)
    while at < minutes * 60:
        if _next_free(deck, free_at, at) is None:
            deck += dice.sample(sorted(cards), len(cards))
        card = _next_free(deck, free_at, at)
        if card is not None:
            deck.remove(card)
            fault = Fault(round(at, 2), *card, round(dice.uniform(*cards[card]), 2))
            free_at[fault.victim] = fault.until + peace.get(fault.victim, PEACE_SECONDS)
            faults.append(fault)
        at += dice.uniform(*GAP)
    return [fault for fault in faults if fault.until < minutes * 60]


def _next_free(deck: Sequence[tuple[str, str]], free_at: dict[str, float], at: float) -> tuple[str, str] | None:
    return next((card for card in deck if free_at.get(card[1], 0.0) <= at), None)
