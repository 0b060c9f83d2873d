"""Throughput and latency of the end-to-end row, as a picture for docs/explain/how-fast.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS, THEIRS = "#2563eb", "#9ca3af"
WHERE = Path(__file__).resolve().parent.parent / "docs"


def draw(figures: Mapping[str, Any], folder: Path = WHERE) -> list[Path]:
    """Write bench.svg and bench.png from the figures of the end-to-end row, as the results hold them."""
    # Not beside the services' imports: it takes a second to load.
    from matplotlib.figure import Figure

    systems: Mapping[str, Any] = figures["systems"]
    order = sorted(systems, key=lambda name: systems[name]["images_per_second"]["median"])
    figure = Figure(figsize=(10, 0.8 + 0.35 * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, {name: systems[name]["images_per_second"] for name in order})
    left.set_title("throughput, end to end (images/s)", fontsize=10)
    _bars(right, {name: systems[name]["p95_seconds"] for name in order if "p95_seconds" in systems[name]})
    right.set_title("p95 latency among 16 clients (s)", fontsize=10)
    paths = [folder / "bench.svg", folder / "bench.png"]
    for path in paths:
        # Without a date in it, the same figures make the same file.
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _bars(axes: Any, spreads: Mapping[str, Mapping[str, float]]) -> None:
    medians = [value["median"] for value in spreads.values()]
    ends = [
        [value["median"] - value["lowest"] for value in spreads.values()],
        [value["highest"] - value["median"] for value in spreads.values()],
    ]
    colours = [OURS if name.startswith("Thoraq") else THEIRS for name in spreads]
    bars = axes.barh(list(spreads), medians, color=colours, xerr=ends, ecolor="#374151", capsize=2)
    axes.bar_label(bars, fmt="%.3g", padding=6, fontsize=8)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
