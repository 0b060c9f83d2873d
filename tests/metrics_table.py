"""The table of metrics in docs/operate/metrics.md: `python -m tests.metrics_table` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from shared import metrics
from worker import beat

PAGE = Path(__file__).parents[1] / "docs" / "operate" / "metrics.md"
BEGIN = "<!-- metrics: written by `python -m tests.metrics_table`, held by tests/test_docs.py -->\n"
END = "<!-- /metrics -->"
HEAD = "| metric | kind | labels | what it is |\n|---|---|---|---|\n"


def rows() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Name, kind, labels and help of each."""
    for metric in [*vars(metrics).values(), beat.TICKED]:
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            total = "_total" if family.type == "counter" else ""
            yield f"{family.name}{total}", family.type, metric._labelnames, family.documentation


def with_table(page: str) -> str:
    """The page with the table as it should be."""
    table = HEAD + "".join(
        f"| `{name}` | {kind} | {', '.join(labels)} | {text} |\n" for name, kind, labels, text in sorted(rows())
    )
    before, rest = page.split(BEGIN)
    return before + BEGIN + table + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
