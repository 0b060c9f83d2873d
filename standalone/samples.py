"""The samples, sent over HTTP as any client would, and the table of their answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console

from client import Client
from client.commands.tables import outcome_text, review_text
from client.models import RESEARCH_USE, Classifier, Job, Modality
from console.terminal import WORDS, Column, print_rows, stdout
from shared.errors import ConfigError


class Sample(BaseModel):
    """One study of samples.json; `files` are named relative to it."""

    title: str
    files: list[Path]
    modality: Modality | None = None  # DICOM says it itself
    classifiers: list[Classifier]


class Answered(BaseModel):
    """A sample and the job that it became."""

    sample: Sample
    job: Job


def read_samples(folder: Path) -> list[Sample]:
    """Read the studies that `samples.json` lists, with their files' full paths.

    ConfigError when that cannot be read.
    """
    listing = folder / "samples.json"
    try:
        samples = TypeAdapter(list[Sample]).validate_python(json.loads(listing.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{listing} cannot be read: {error}") from error
    return [sample.model_copy(update={"files": [folder / file for file in sample.files]}) for sample in samples]


def classify(client: Client, samples: Iterable[Sample], timeout: float = 180) -> list[Answered]:
    """Send every sample once per classifier, all before the first answer, and wait for each to end."""
    sent = [
        (sample, client.submit(sample.files, classifier=classifier, modality=sample.modality, priority="stat"))
        for sample in samples
        for classifier in sample.classifiers
    ]
    return [Answered(sample=sample, job=client.wait(job, timeout)) for sample, job in sent]


def print_table(answers: Sequence[Answered], console: Console | None = None) -> None:
    """Print one row per job; a job without an answer shows why."""
    print_rows(answers, COLUMNS, title="The samples, classified", console=console)
    (console or stdout()).print(RESEARCH_USE)


def _file(answer: Answered) -> str:
    files = answer.sample.files
    return files[0].name + (f" + {len(files) - 1} more" if len(files) > 1 else "")


def _probability(answer: Answered) -> str:
    result = answer.job.result
    if result is None or result.prediction is None or result.probabilities is None:
        return ""
    return f"{result.probabilities[result.prediction]:.3f}"


def _problem(answer: Answered) -> str:
    job = answer.job
    if job.result is None:
        return job.error.detail if job.error else "no reason given"
    return (job.result.detail or job.result.reason or "") if job.result.rejected else ""


def _seconds(answer: Answered) -> str:
    job = answer.job
    return f"{(job.finished_at - job.created_at).total_seconds():.2f} s" if job.finished_at else ""


COLUMNS: list[Column[Answered]] = [
    Column("File", _file, wraps=16),
    Column("Modality", lambda answer: answer.job.modality, leaves=1),
    Column("Classifier", lambda answer: answer.job.classifier),
    Column("Outcome", lambda answer: outcome_text(answer.job), always=True),
    Column("Prediction", lambda answer: answer.job.result.prediction or "" if answer.job.result else ""),
    Column("Probability", _probability, right=True),
    Column("Review", lambda answer: review_text(answer.job), wraps=10, always=True),
    Column("Time", _seconds, leaves=2, right=True),
    Column("Problem", _problem, wraps=WORDS, leaves=3),
]
