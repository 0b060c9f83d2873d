"""What the commands about jobs and models print: tables for people, JSON lines for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.commands.sending import Outcome
from client.errors import ApiError
from client.models import RESEARCH_USE, ImagePrediction, Job, JobResult, Model
from console.terminal import WORDS, Column, duration, moment, note, print_rows, stderr, stdout


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
    """Return an error as JSON."""
    if isinstance(error, ApiError):
        return {name: getattr(error, name) for name in ("status", "type", "title", "detail", "request_id", "errors")}
    return {"type": "unreadable-file" if isinstance(error, OSError) else "unreachable", "detail": str(error)}


def jobs_table(outcomes: Sequence[Outcome]) -> None:
    """Where each job is."""
    print_rows(outcomes, [*_files(outcomes), *JOB_COLUMNS])


def results_table(outcomes: Sequence[Outcome]) -> None:
    """Show what each job answered, image by image where there are several, and what it is not to be used for."""
    print_rows(outcomes, [*_files(outcomes), *RESULT_COLUMNS])
    results = [(outcome.job, outcome.job.result) for outcome in outcomes if outcome.job and outcome.job.result]
    for job, result in results:
        if len(result.images) > 1:
            stdout().print()
            print_rows(result.images, IMAGE_COLUMNS, title=f"Images of {job.id}")
    if results:
        stdout().print()
    for model in sorted({f"{result.model.name} {result.model.version}" for _, result in results}):
        stdout().print(f"Answered by {model}.")
    if results:
        stdout().print(results[0][1].notice or RESEARCH_USE)


def models_table(models: Sequence[Model]) -> None:
    """Show the bundles, and which one answers."""
    print_rows(models, MODEL_COLUMNS)
    stdout().print(f"\n{RESEARCH_USE}")


def tell(error: Exception, about: str = "") -> None:
    """Print an error on standard error: what it is about and why, and a line for each field at fault."""
    if isinstance(error, ApiError):
        lines = [error.headline, *(f"  {reason}" for reason in error.reasons)]
    elif isinstance(error, OSError) and error.filename and error.strerror:
        lines = [f"{error.filename}: {error.strerror}"]
    else:
        lines = [str(error)]
    note("\n".join([f"{about}: {lines[0]}" if about else lines[0], *lines[1:]]))


def tell_skipped(count: int) -> None:
    """Say on standard error how many files of a directory are not sent, if there are any."""
    if count:
        files = "1 other file was" if count == 1 else f"{count:,} other files were"
        note(f"{files} skipped: hidden, or not PNG, JPEG, TIFF or DICOM.")


def _files(outcomes: Sequence[Outcome]) -> list[Column[Outcome]]:
    return [Column("File", _file, wraps=WORDS)] if any(outcome.files for outcome in outcomes) else []


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


def _wait(job: Job) -> str:
    return "" if job.estimated_wait_seconds is None else duration(job.estimated_wait_seconds)


def _of(show: Callable[[Job], str]) -> Callable[[Outcome], str]:
    return lambda outcome: show(outcome.job) if outcome.job else ""


def _result(show: Callable[[JobResult], str]) -> Callable[[Outcome], str]:
    return _of(lambda job: show(job.result) if job.result else "")


def outcome_text(job: Job) -> str:
    """Return what came of a job; without a result, where it is."""
    if job.result is None:
        return job.status
    return "rejected" if job.result.rejected else job.result.outcome


def review_text(job: Job) -> str:
    """Whether a person is to look at a job's answer, and why; empty without an answer."""
    result = job.result
    if result is None or (result.rejected and not result.needs_review):
        return ""
    if not result.needs_review:
        return "no"
    reasons = ", ".join(reason.replace("-", " ") for reason in result.review_reasons)
    return f"yes: {reasons}" if reasons else "yes"


def _second_opinion(result: JobResult) -> str:
    other = result.second_opinion
    return f"{other.classifier}: {_probabilities(other.probabilities)}" if other else ""


def _images(result: JobResult) -> str:
    answered = sum(1 for image in result.images if image.problem is None and image.rejected is None)
    return str(answered) if answered == len(result.images) else f"{answered} of {len(result.images)}"


def _image_problem(image: ImagePrediction) -> str:
    return image.problem.detail if image.problem else (image.rejected or "").replace("-", " ")


def _probabilities(values: dict[str, float] | None) -> str:
    ranked = sorted((values or {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value:.3f}" for name, value in ranked)


JOB_COLUMNS: list[Column[Outcome]] = [
    Column("Job", _job_id),
    Column("Status", _status),
    Column("Classifier", _of(lambda job: job.classifier), leaves=4),
    Column("Modality", _of(lambda job: job.modality), leaves=2),
    Column("Priority", _of(lambda job: job.priority), leaves=3),
    Column("Ahead", _of(lambda job: "" if job.position is None else f"{job.position:,}"), leaves=5, right=True),
    Column("Wait", _of(_wait), leaves=6, right=True),
    Column("Created", _of(lambda job: moment(job.created_at)), leaves=1),
    Column("Problem", _problem, wraps=WORDS),
]
RESULT_COLUMNS: list[Column[Outcome]] = [
    Column("Job", _job_id),
    Column("Outcome", lambda outcome: outcome_text(outcome.job) if outcome.job else "error", always=True),
    Column("Prediction", _result(lambda result: result.prediction or "")),
    Column("Probabilities", _result(lambda result: _probabilities(result.probabilities)), wraps=WORDS),
    Column("Review", _of(review_text), wraps=WORDS, always=True),
    Column("Second opinion", _result(_second_opinion), wraps=WORDS, leaves=2),
    Column("Corrected to", _result(lambda result: result.modality or "" if result.modality_corrected else "")),
    Column("Images", _result(_images), leaves=1),
    Column("Problem", _problem, wraps=WORDS),
]
IMAGE_COLUMNS: list[Column[ImagePrediction]] = [
    Column("File", lambda image: str(image.file), right=True),
    Column("Frame", lambda image: str(image.frame), right=True),
    Column("Prediction", lambda image: image.prediction or ""),
    Column("Probabilities", lambda image: _probabilities(image.probabilities), wraps=WORDS),
    Column("Problem", _image_problem, wraps=WORDS),
]
MODEL_COLUMNS: list[Column[Model]] = [
    Column("Model", lambda model: model.name),
    Column("Version", lambda model: model.version),
    Column("Active", lambda model: "yes" if model.active else "", leaves=2),
    Column("Serving", lambda model: "yes" if model.serving else "no"),
    Column("Classifiers", lambda model: ", ".join(model.card.get("heads", ())), leaves=1),
    Column("SHA-256", lambda model: model.sha256),
]
