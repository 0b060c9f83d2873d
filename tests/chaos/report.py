"""The table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from tests.chaos.clients import Fate
from tests.chaos.count import TERMINAL, Findings, Rows
from tests.chaos.receiver import Receiver


@dataclass
class Verdict:
    """What a run found; `violations` are what breaks the promise, `notes` what is worth a look."""

    table: Table
    violations: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settled:
    """Seconds from the last fault until every job was terminal and every delivery made; None: not in time."""

    jobs: float | None
    deliveries: float | None


def tabulate(
    title: str,
    fates: Sequence[Fate],
    rows: Rows,
    findings: Findings,
    receivers: Sequence[Receiver],
    settled: Settled,
    recovered: Mapping[str, float],
    extra: Mapping[str, str],
) -> Table:
    """One table that says everything."""
    table = Table(title=title, show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("count", justify="right")
    for name, value in {**_requests(fates), **_jobs(rows), **_promises(findings)}.items():
        table.add_row(name, str(value), style="bold red" if name in PROMISES and value else None)
    table.add_section()
    for receiver in receivers:
        again = sum(receiver.accepted.values()) - len(receiver.accepted)
        table.add_row(f"accepted by {receiver.name}", f"{len(receiver.accepted)} (and {again} once more)")
    table.add_section()
    table.add_row("every job terminal after the last fault", _seconds(settled.jobs))
    table.add_row("every delivery made after the last fault", _seconds(settled.deliveries))
    for name, seconds in sorted(recovered.items()):
        table.add_row(f"longest recovery, {name}", _seconds(seconds))
    table.add_section()
    for name, text in extra.items():
        table.add_row(name, text)
    return table


PROMISES = ("lost", "doubled", "wrong", "undelivered", "unverified signatures", "unanswered requests")


def _requests(fates: Sequence[Fate]) -> dict[str, object]:
    statuses = Counter(fate.statuses[0] for fate in fates if fate.statuses)
    return {
        "requests": len(fates),
        "jobs submitted": sum(len(fate.submission.asks) for fate in fates),
        "answered 202 / 200": f"{statuses[202]} / {statuses[200]}",
        "tries that failed": sum(fate.failures for fate in fates),
        "answered again, same key": sum(len(fate.statuses) - 1 for fate in fates if fate.statuses),
        "cancelled with 200": sum(fate.cancelled for fate in fates),
    }


def _jobs(rows: Rows) -> dict[str, object]:
    states = Counter(job.state for job in rows.jobs)
    named = {f"jobs {state}": states[state] for state in sorted(TERMINAL)}
    return {"jobs in the database": len(rows.jobs), **named, "results": sum(job.results for job in rows.jobs)}


def _promises(findings: Findings) -> dict[str, object]:
    undelivered = sum(map(len, findings.undelivered.values()))
    values = [findings.lost, findings.doubled, findings.wrong, None, findings.unverified, findings.unanswered]
    counted = [undelivered if value is None else len(value) for value in values]
    return dict(zip(PROMISES, counted, strict=True))


def _seconds(value: float | None) -> str:
    return "not in time" if value is None else f"{value:.1f} s"
