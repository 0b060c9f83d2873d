"""Figures, and what is claimed with them: spreads, ratios, bars, the JSON file and the table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds. The median is what is quoted; the ends say how far to trust it."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach, or must not exceed."""

    value: float
    at_most: bool = False

    def met(self, figure: float) -> bool:
        """Whether a figure clears it."""
        return figure <= self.value if self.at_most else figure >= self.value


@dataclass(frozen=True)
class Claim:
    """One line of the table: what, its bar, and what was measured, in `unit` (empty: a plain ratio)."""

    what: str
    measured: Spread
    bar: Bar
    unit: str = ""

    @property
    def met(self) -> bool:
        """By the median, which is what is quoted."""
        return self.bar.met(self.measured.median)


@dataclass(frozen=True)
class Found:
    """What one row of the bench found: its claims, and every figure behind them."""

    claims: list[Claim] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of one figure per round; ValueError without rounds."""
    if not values:
        raise ValueError("no round was measured")
    return Spread(statistics.median(values), min(values), max(values))


def ratio(these: Sequence[float], those: Sequence[float]) -> Spread:
    """Return the spread of one figure over another, round by round; ValueError when the rounds do not pair.

    Compared within each round, whose parts ran minutes apart at most, and summarised after that: a neighbour who
    takes the machine for a while then spoils a round, not the comparison.
    """
    return spread([this / that for this, that in zip(these, those, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` % of the values do not exceed (nearest rank)."""
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values, and a percent above 0 and up to 100")
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[int(rank) - 1]


def as_json(found: Found, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it is kept: `context`, its claims with their verdict, its figures."""
    claims = [
        {
            "what": claim.what,
            "bar": f"{'<=' if claim.bar.at_most else '>='} {claim.bar.value:g}",
            "unit": claim.unit,
            "measured": plain(claim.measured),
            "verdict": verdict(claim),
        }
        for claim in found.claims
    ]
    return {**context, "claims": claims, "figures": plain(found.figures)}


def plain(value: Any) -> Any:
    """Spreads as dictionaries, numbers with four digits; everything else as it is."""
    if isinstance(value, Spread):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def verdict(claim: Claim) -> str:
    """One word."""
    return "pass" if claim.met else "short"


def table(claims: Iterable[Claim]) -> Table:
    """One row per claim; lowest and highest round in brackets."""
    shown = Table(title="Medians of the rounds (lowest to highest)")
    shown.add_column("what")
    for column in ("bar", "measured", ""):
        shown.add_column(column, justify="right", no_wrap=True)
    for claim in claims:
        bar = f"{'<=' if claim.bar.at_most else '>='} {claim.bar.value:g} {claim.unit}"
        shown.add_row(claim.what, bar.strip(), _text(claim.measured), verdict(claim))
    return shown


def read(path: Path) -> dict[str, Any]:
    """Return what was written before; nothing when nothing was."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return kept


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write the results as JSON; complete or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _text(value: Spread) -> str:
    return f"{value.median:.3g} ({value.lowest:.3g}-{value.highest:.3g})"
