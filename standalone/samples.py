"""The samples, sent over HTTP as any client would, and the table of their answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.table import Table

from client import Client
from client.models import RESEARCH_USE, Classifier, Job, Modality
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
    """The studies that `samples.json` lists, with their files' full paths; ConfigError when that cannot be read."""
    listing = folder / "samples.json"
    try:
        samples = TypeAdapter(list[Sample]).validate_python(json.loads(listing.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{listing} cannot be read: {error}") from error
    return [sample.model_copy(update={"files": [folder / file for file in sample.files]}) for sample in samples]


def classify(client: Client, samples: Iterable[Sample], timeout: float = 180) -> list[Answered]:
    """Sends every sample once per classifier, all before the first answer, and waits for each to end."""
    sent = [
        (sample, client.submit(sample.files, classifier=classifier, modality=sample.modality, priority="stat"))
        for sample in samples
        for classifier in sample.classifiers
    ]
    return [Answered(sample=sample, job=client.wait(job, timeout)) for sample, job in sent]


def table(answers: Iterable[Answered]) -> Table:
    """One row per job; a job without an answer shows why."""
    shown = Table(title="The samples, classified", caption=RESEARCH_USE)
    for column in ("file", "modality", "classifier", "prediction"):
        shown.add_column(column)
    for column in ("probability", "time"):
        shown.add_column(column, justify="right", no_wrap=True)
    for answer in answers:
        shown.add_row(*_row(answer))
    return shown


def _row(answer: Answered) -> tuple[str, ...]:
    job, files = answer.job, answer.sample.files
    more = f" + {len(files) - 1} more" if len(files) > 1 else ""
    prediction, probability = _verdict(job)
    seconds = f"{(job.finished_at - job.created_at).total_seconds():.2f} s" if job.finished_at else ""
    return (files[0].name + more, job.modality, job.classifier, prediction, probability, seconds)


def _verdict(job: Job) -> tuple[str, str]:
    if job.result is None:
        return f"{job.status}: {job.error.detail if job.error else 'no reason given'}", ""
    prediction, probabilities = job.result.prediction, job.result.probabilities
    if prediction is None or probabilities is None:
        return f"rejected: {job.result.detail}", ""
    return prediction, f"{probabilities[prediction]:.3f}"
