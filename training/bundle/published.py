"""What others published on the very same images, beside what a card says of its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.inference.bundle import Card
from training.evaluation.measure import ranged


@dataclass(frozen=True)
class Published:
    """What others report on the images of one source, and where in a card what we measured lies."""

    figure: str
    source: str
    value: float
    who: str
    place: tuple[str, ...]
    score: str


XRAYS, SLICES = "ieee8023/covid-chestxray-dataset", "UCSD-AI4H/COVID-CT"
OZTURK = "Ozturk et al. 2020, doi 10.1016/j.compbiomed.2020.103792 (random folds: patients repeat across them)"
PUBLISHED = (
    Published(
        "X-rays, three classes: accuracy", XRAYS, 0.8702, OZTURK,
        ("cross_validation", "ensemble-xray"), "accuracy",
    ),
    Published(
        "X-rays, COVID-19 against normal: accuracy", XRAYS, 0.9808, OZTURK,
        ("cross_validation", "ensemble-xray", "against", "normal"), "accuracy",
    ),
    Published(
        "CT slices, published split: accuracy", SLICES, 0.886,
        "Liu et al. 2020, doi 10.1101/2020.05.11.20097907 (from ImageNet weights)",
        ("heads", "binary-ct", "metrics"), "accuracy",
    ),
    Published(
        "CT slices, published split: ROC AUC", SLICES, 0.94,
        "He et al. 2020, doi 10.1101/2020.04.13.20063941 (from ImageNet weights)",
        ("heads", "binary-ct", "metrics"), "auc",
    ),
)  # fmt: skip


def compared(card: Card) -> list[tuple[Published, dict[str, Any]]]:
    """Return what others published on images that this card's bundle was made from, and what we measured there."""
    named, whole = {source.name for source in card.data}, card.model_dump(mode="json")
    found = []
    for other in PUBLISHED:
        place: Any = whole
        for key in other.place:
            place = place.get(key, {})
        ours = {**place.get("scores", place), "intervals": place.get("intervals", {})}
        if other.source in named and other.score in ours:
            found.append((other, ours))
    return found


def comparisons(card: Card) -> list[list[str]]:
    """Rows: the figure, ours, theirs, and who they are."""
    return [[o.figure, ranged(ours, o.score), f"{o.value:.3f}", o.who] for o, ours in compared(card)]


def shortfalls(card: Card) -> list[str]:
    """Where others did better, a sentence each."""
    return [
        f"Falls short: {other.figure} is {ranged(ours, other.score)} here, {other.value:.3f} at {other.who}."
        for other, ours in compared(card)
        if ours[other.score] < other.value
    ]
