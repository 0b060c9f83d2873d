"""The one shape of a job, for polling, lists, batch output and webhooks, and how it is made from rows.

Webhooks carry it without what the client attached (`external_id`, `metadata`): that may name a patient.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from shared.models import Batch, Classifier, EventType, Job, JobState, Modality, Priority, Result

RESEARCH_USE = "Decision support for research; not a medical device. A radiologist decides."


class ProblemRef(BaseModel):
    """Why a job or an image failed; `type` is documented at /problems."""

    type: str
    title: str
    detail: str


class ImagePrediction(BaseModel):
    """One image's answer, or its problem."""

    image_id: str
    file: int = Field(description="Index of the file in the request, from 0")
    frame: int = Field(description="Index of the frame in the file, from 0")
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    problem: ProblemRef | None = None


class BundleRef(BaseModel):
    """The model bundle that answered."""

    name: str
    version: str
    sha256: str


class JobResult(BaseModel):
    """The answer: for a study of several images the mean of its images' probabilities."""

    prediction: str
    probabilities: dict[str, float]
    aggregate: str = Field(description="How images were combined: `single` or `mean`")
    images: list[ImagePrediction]
    model: BundleRef
    timings: dict[str, float] = Field(description="Seconds: queued, load, infer, total")
    notice: str = RESEARCH_USE


class JobEnvelope(BaseModel):
    """A job as clients see it."""

    id: str
    object: str = "job"
    status: JobState
    study_id: str
    batch_id: str | None
    classifier: Classifier
    modality: Modality
    priority: Priority
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    image_count: int
    attempts: int = Field(description="Transient errors and worker deaths so far")
    position: int | None = Field(None, description="While queued: how many jobs go first")
    estimated_wait_seconds: float | None = Field(None, description="While queued: from what finished lately")
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: ProblemRef | None
    result: JobResult | None


class BatchCounts(BaseModel):
    """Jobs of a batch by state; `rejected` files never became a job."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    quarantined: int
    rejected: int


class RejectedItem(BaseModel):
    """A file of a batch that could not be accepted."""

    file: int = Field(description="Index of the file in the request, from 0")
    problem: ProblemRef


class BatchEnvelope(BaseModel):
    """A batch as clients see it."""

    id: str
    object: str = "batch"
    status: str = Field(description="running, completed or completed_with_errors")
    external_id: str | None = None
    counts: BatchCounts
    rejected: list[RejectedItem] = []
    created_at: datetime
    completed_at: datetime | None


class WebhookPayload(BaseModel):
    """The body of a webhook (Standard Webhooks, section Payload structure)."""

    type: EventType
    timestamp: datetime
    data: dict[str, Any]


def result_of(result: Result) -> JobResult:
    """The result row as clients see it."""
    answered = sum(1 for image in result.images if image.get("problem") is None)
    return JobResult(
        prediction=result.prediction,
        probabilities=result.probabilities,
        aggregate="single" if answered == 1 else "mean",
        images=[ImagePrediction.model_validate(image) for image in result.images],
        model=BundleRef(name=result.bundle.name, version=result.bundle.version, sha256=result.bundle.sha256),
        timings=result.timings,
    )


def job_envelope(job: Job) -> JobEnvelope:
    """The job row, with its study and result, as clients see it."""
    return JobEnvelope(
        id=job.id,
        status=job.state,
        study_id=job.study_id,
        batch_id=job.batch_id,
        classifier=job.classifier,
        modality=job.study.modality,
        priority=job.priority,
        external_id=job.external_id,
        metadata=job.extra,
        image_count=job.study.image_count,
        attempts=job.error_attempts + job.crash_attempts,
        created_at=job.created_at,
        queued_at=job.queued_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=ProblemRef.model_validate(job.error) if job.error else None,
        result=result_of(job.result) if job.result else None,
    )


def batch_envelope(batch: Batch) -> BatchEnvelope:
    """The batch row as clients see it: one row, however large the batch."""
    counts = BatchCounts(
        total=batch.total,
        queued=batch.queued,
        running=batch.running,
        succeeded=batch.succeeded,
        failed=batch.failed,
        cancelled=batch.cancelled,
        quarantined=batch.quarantined,
        rejected=len(batch.rejected),
    )
    clean = counts.succeeded == counts.total
    return BatchEnvelope(
        id=batch.id,
        status="running" if batch.completed_at is None else "completed" if clean else "completed_with_errors",
        external_id=batch.external_id,
        counts=counts,
        rejected=[RejectedItem.model_validate(item) for item in batch.rejected],
        created_at=batch.created_at,
        completed_at=batch.completed_at,
    )


PRIVATE = {"external_id", "metadata"}


def job_event(session: Session, job: Job) -> dict[str, Any]:
    """The data of a job's webhook."""
    session.refresh(job)
    return job_envelope(job).model_dump(mode="json", exclude=PRIVATE)


def batch_event(session: Session, batch: Batch) -> dict[str, Any]:
    """The data of a batch's webhook."""
    session.refresh(batch)
    return batch_envelope(batch).model_dump(mode="json", exclude=PRIVATE)
