"""Rounds to figures, ratios, a table and a JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Round:
    """One round of one system: the seconds that it took, and those that each image took (its latency)."""

    seconds: float
    latencies: list[float]

    @property
    def images_per_second(self) -> float:
        """End to end, from the first byte sent to the last answer received."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds. The median is what is quoted; the ends say how far to trust it."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of one figure per round; ValueError without rounds."""
    if not values:
        raise ValueError("no round was measured")
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank)."""
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values, and a percent above 0 and up to 100")
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[int(rank) - 1]


def figures(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Rate in images/s and latencies in seconds of one system."""
    return {
        "images_per_second": spread([one.images_per_second for one in rounds]),
        "p50_seconds": spread([percentile(one.latencies, 50) for one in rounds]),
        "p95_seconds": spread([percentile(one.latencies, 95) for one in rounds]),
    }


def ratios(rounds: Mapping[str, Sequence[Round]], ours: str) -> dict[str, Spread]:
    """How many times the rate of each other system ours has.

    Compared within each round, whose systems ran minutes apart at most, and summarised after that: a neighbour who
    takes the machine for a while then spoils a round, not the comparison.
    """
    return {
        peer: spread([us.images_per_second / it.images_per_second for us, it in zip(rounds[ours], theirs, strict=True)])
        for peer, theirs in rounds.items()
        if peer != ours
    }


def as_json(rounds: Mapping[str, Sequence[Round]], ours: str, context: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is kept: `context`, the figures of each system and the ratios."""
    systems = {
        name: {key: _rounded(value) for key, value in figures(measured).items()} for name, measured in rounds.items()
    }
    return {
        **context,
        "systems": systems,
        "ratios": {peer: _rounded(ratio) for peer, ratio in ratios(rounds, ours).items()},
    }


def table(rounds: Mapping[str, Sequence[Round]], ours: str) -> Table:
    """One row per system; lowest and highest round in brackets."""
    shown = Table(title="End to end over HTTP; median of the rounds (lowest-highest)")
    shown.add_column("system", no_wrap=True)
    for column in ("images/s", "p50", "p95", f"{ours} / it"):
        shown.add_column(column, justify="right", no_wrap=True)
    against = ratios(rounds, ours)
    for name, measured in rounds.items():
        values = figures(measured)
        ratio = _text(against[name], ".2f") if name in against else ""
        latencies = [f"{values[key].median:.2f} s" for key in ("p50_seconds", "p95_seconds")]
        shown.add_row(name, _text(values["images_per_second"], ".1f"), *latencies, ratio)
    return shown


def write(path: Path, results: Mapping[str, Any]) -> None:
    """The results as JSON; complete or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _text(value: Spread, form: str) -> str:
    return f"{value.median:{form}} ({value.lowest:{form}}-{value.highest:{form}})"


def _rounded(value: Spread) -> dict[str, float]:
    return {key: round(number, 4) for key, number in asdict(value).items()}
