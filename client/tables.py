"""What the command prints: tables for people, JSON lines for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from client.batch_models import Batch, BatchError
from client.errors import ApiError
from client.models import RESEARCH_USE, Job, JobResult, Model
from client.sending import Outcome

# The rest is short or an id, and stays whole.
WRAPPED = frozenset({"File", "Probabilities", "Review", "Second opinion", "Problem", "SHA-256"})
PIPED_WIDTH = 200  # without a terminal to ask; ids must not be cut

Row = TypeVar("Row")
Column = tuple[str, Callable[[Row], str]]


def stderr() -> Console:
    """For what is not the answer: progress, hints, errors."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def progress() -> Progress:
    """Bars on a terminal, silence elsewhere. Standard output is left alone: it may be a file of JSON lines."""
    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def print_json(outcome: Outcome) -> None:
    """One line: the job as the server sent it, or the id and the problem; with the files if some were sent."""
    line: dict[str, Any] = {"files": [str(path) for path in outcome.files]} if outcome.files else {}
    if outcome.job is not None:
        line |= outcome.job.model_dump(mode="json")
    elif outcome.job_id is not None:
        line["id"] = outcome.job_id
    if outcome.error is not None:
        line["problem"] = problem(outcome.error)
    print(json.dumps(line), flush=True)


def problem(error: Exception) -> dict[str, Any]:
    """An error as JSON."""
    if isinstance(error, ApiError):
        return {name: getattr(error, name) for name in ("status", "type", "title", "detail", "request_id", "errors")}
    return {"type": "unreadable-file" if isinstance(error, OSError) else "unreachable", "detail": str(error)}


def jobs_table(outcomes: Sequence[Outcome]) -> None:
    """Where each job is."""
    _print(
        outcomes,
        *_files(outcomes),
        ("Job", _job_id),
        ("Status", _status),
        ("Classifier", _of(lambda job: job.classifier)),
        ("Modality", _of(lambda job: job.modality)),
        ("Priority", _of(lambda job: job.priority)),
        ("Ahead", _of(lambda job: "" if job.position is None else str(job.position))),
        ("Wait", _of(lambda job: _seconds(job.estimated_wait_seconds))),
        ("Created", _of(lambda job: _time(job.created_at))),
        ("Problem", _problem),
    )


def results_table(outcomes: Sequence[Outcome]) -> None:
    """What each job answered, image by image where there are several, and what it is not to be used for."""
    _print(
        outcomes,
        *_files(outcomes),
        ("Job", _job_id),
        ("Status", _status),
        ("Outcome", _result(lambda result: "rejected" if result.rejected else result.outcome)),
        ("Prediction", _result(lambda result: result.prediction or "")),
        ("Probabilities", _result(lambda result: _probabilities(result.probabilities))),
        ("Review", _result(_review)),
        ("Second opinion", _result(_second_opinion)),
        ("Corrected to", _result(lambda result: result.modality or "" if result.modality_corrected else "")),
        ("Images", _result(_images)),
        ("Problem", _problem),
    )
    results = [(outcome.job, outcome.job.result) for outcome in outcomes if outcome.job and outcome.job.result]
    for job, result in results:
        if len(result.images) > 1:
            _images_table(job, result)
    for model in sorted({f"{result.model.name} {result.model.version}" for _, result in results}):
        _stdout().print(f"Answered by {model}.")
    if results:
        _stdout().print(results[0][1].notice or RESEARCH_USE)


def models_table(models: Sequence[Model]) -> None:
    """The bundles, and which one answers."""
    _print(
        models,
        ("Model", lambda model: model.name),
        ("Version", lambda model: model.version),
        ("Active", lambda model: "yes" if model.active else ""),
        ("Serving", lambda model: "yes" if model.serving else "no"),
        ("Classifiers", lambda model: ", ".join(model.card.get("heads", ()))),
        ("SHA-256", lambda model: model.sha256),
    )
    _stdout().print(RESEARCH_USE)


def batches_table(batches: Sequence[Batch]) -> None:
    """How far each batch is."""
    counts = ("total", "queued", "running", "succeeded", "failed", "cancelled", "quarantined", "rejected")
    _print(
        batches,
        ("Batch", lambda batch: batch.id),
        ("Label", lambda batch: batch.external_id or ""),
        ("Status", lambda batch: batch.status.replace("_", " ")),
        *((name.capitalize(), _count(name)) for name in counts),
        ("Created", lambda batch: _time(batch.created_at)),
        ("Took", _took),
    )
    if batches:
        _stdout().print(RESEARCH_USE)


def batch_errors_table(errors: Sequence[BatchError], title: str) -> None:
    """Which items have no answer, and why."""
    _print(
        errors,
        ("Item", lambda error: str(error.item)),
        ("File", lambda error: error.member or error.custom_id or ""),
        ("Job", lambda error: error.job_id or ""),
        ("Status", lambda error: error.status),
        ("Problem", lambda error: error.problem.detail if error.problem else ""),
        title=title,
    )


def _images_table(job: Job, result: JobResult) -> None:
    _print(
        result.images,
        ("File", lambda image: str(image.file)),
        ("Frame", lambda image: str(image.frame)),
        ("Prediction", lambda image: image.prediction or ""),
        ("Probabilities", lambda image: _probabilities(image.probabilities)),
        ("Problem", lambda image: image.problem.detail if image.problem else (image.rejected or "").replace("-", " ")),
        title=f"Images of {job.id}",
    )


def _stdout() -> Console:
    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=PIPED_WIDTH)


def _print(rows: Sequence[Row], *columns: Column[Row], title: str | None = None) -> None:
    if not rows:
        _stdout().print("None.")
        return
    cells = {name: [_printable(cell(row)) for row in rows] for name, cell in columns}
    filled = {name: texts for name, texts in cells.items() if any(texts)}  # an empty column only takes up room
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in filled:
        table.add_column(name, overflow="fold", no_wrap=name not in WRAPPED)
    for texts in zip(*filled.values(), strict=True):
        table.add_row(*texts)
    _stdout().print(table)


def _printable(text: str) -> str:
    # A file name may hold bytes that no encoding explains, or control characters that would move the cursor.
    encoding = sys.stdout.encoding or "utf-8"
    known = text.encode(encoding, "replace").decode(encoding)
    return "".join(letter if letter.isprintable() else "?" for letter in known)


def _files(outcomes: Sequence[Outcome]) -> list[Column[Outcome]]:
    return [("File", _file)] if any(outcome.files for outcome in outcomes) else []


def _file(outcome: Outcome) -> str:
    more = f" and {len(outcome.files) - 1} more" if len(outcome.files) > 1 else ""
    return f"{outcome.files[0]}{more}" if outcome.files else ""


def _job_id(outcome: Outcome) -> str:
    return outcome.job.id if outcome.job else outcome.job_id or ""


def _status(outcome: Outcome) -> str:
    return "error" if outcome.error else outcome.job.status if outcome.job else ""


def _problem(outcome: Outcome) -> str:
    if outcome.error is not None:
        return str(outcome.error)
    if outcome.job and outcome.job.error:
        return outcome.job.error.detail
    return (outcome.job.result.detail or outcome.job.result.reason or "") if outcome.job and outcome.job.result else ""


def _of(show: Callable[[Job], str]) -> Callable[[Outcome], str]:
    return lambda outcome: show(outcome.job) if outcome.job else ""


def _result(show: Callable[[JobResult], str]) -> Callable[[Outcome], str]:
    return _of(lambda job: show(job.result) if job.result else "")


def _review(result: JobResult) -> str:
    if not result.needs_review:
        return ""
    return ", ".join(reason.replace("-", " ") for reason in result.review_reasons) or "yes"


def _second_opinion(result: JobResult) -> str:
    other = result.second_opinion
    return f"{other.classifier}: {_probabilities(other.probabilities)}" if other else ""


def _images(result: JobResult) -> str:
    answered = sum(1 for image in result.images if image.problem is None and image.rejected is None)
    return str(answered) if answered == len(result.images) else f"{answered} of {len(result.images)}"


def _probabilities(values: dict[str, float] | None) -> str:
    ranked = sorted((values or {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value:.3f}" for name, value in ranked)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s"


def _count(name: str) -> Callable[[Batch], str]:
    return lambda batch: f"{getattr(batch.counts, name):,}" if getattr(batch.counts, name) else ""


def _took(batch: Batch) -> str:
    return _seconds((batch.completed_at - batch.created_at).total_seconds() if batch.completed_at else None)


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
