"""What the commands about batches print for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.batch_models import Batch, BatchError
from client.commands.tally import Line
from console.terminal import WORDS, Column, duration, moment, print_rows, printable

SHOWN_IGNORED = 10


def batches_table(batches: Sequence[Batch]) -> None:
    """How far each batch is."""
    print_rows(batches, BATCH_COLUMNS)


def batch_errors_table(errors: Sequence[BatchError], title: str) -> None:
    """Which items have no answer, and why."""
    print_rows(errors, ERROR_COLUMNS, title=title)


def tally_table(lines: Sequence[Line]) -> None:
    """How many items have which answer, and how many of these need review."""
    print_rows(lines, TALLY_COLUMNS)


def ignored_text(batch: Batch) -> str:
    """How many files became no item, and the names of the first; empty when there are none."""
    ignored = batch.ignored
    if not ignored.count:
        return ""
    names = [printable(name) for name in ignored.names[:SHOWN_IGNORED]]
    more = [f"{ignored.count - len(names):,} more"] if ignored.count > len(names) else []
    files = "1 file was" if ignored.count == 1 else f"{ignored.count:,} files were"
    return f"{files} ignored, as no images: {', '.join([*names, *more])}"


def _reasons(line: Line) -> str:
    return ", ".join(f"{reason.replace('-', ' ')} {count:,}" for reason, count in line.reasons.most_common())


def _count(name: str) -> Callable[[Batch], str]:
    return lambda batch: f"{getattr(batch.counts, name):,}" if getattr(batch.counts, name) else ""


def _took(batch: Batch) -> str:
    if batch.completed_at is None:
        return ""
    return duration((batch.completed_at - batch.created_at).total_seconds(), exact=True)


BATCH_COLUMNS: list[Column[Batch]] = [
    Column("Batch", lambda batch: batch.id),
    Column("Label", lambda batch: batch.external_id or "", wraps=WORDS, leaves=3),
    Column("Status", lambda batch: batch.status.replace("_", " ")),
    Column("Total", _count("total"), right=True),
    Column("Queued", _count("queued"), leaves=5, right=True),
    Column("Running", _count("running"), leaves=4, right=True),
    Column("Succeeded", _count("succeeded"), right=True),
    Column("Failed", _count("failed"), right=True),
    Column("Cancelled", _count("cancelled"), right=True),
    Column("Quarantined", _count("quarantined"), right=True),
    Column("Rejected", _count("rejected"), right=True),
    Column("Ignored", lambda batch: f"{batch.ignored.count:,}" if batch.ignored.count else "", leaves=6, right=True),
    Column("Created", lambda batch: moment(batch.created_at), leaves=1),
    Column("Took", _took, leaves=2, right=True),
    Column("Problem", lambda batch: batch.problem.detail if batch.problem else "", wraps=WORDS),
]
TALLY_COLUMNS: list[Column[Line]] = [
    Column("Answer", lambda line: line.answer, wraps=16),
    Column("Items", lambda line: f"{line.items:,}", right=True),
    Column("Review", lambda line: f"{line.review:,}", right=True),
    Column("Reasons", _reasons, wraps=16),
]
ERROR_COLUMNS: list[Column[BatchError]] = [
    Column("Item", lambda error: str(error.item), right=True),
    Column("File", lambda error: error.member or error.custom_id or "", wraps=WORDS),
    Column("Job", lambda error: error.job_id or "", leaves=1),
    Column("Status", lambda error: error.status),
    Column("Problem", lambda error: error.problem.detail if error.problem else "", wraps=WORDS),
]
