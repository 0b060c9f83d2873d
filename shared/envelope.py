"""The one shape of a job, for polling, lists, batch output and webhooks, and how it is made from rows.

Webhooks carry it without what the client attached (`external_id`, `metadata`): that may name a patient.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from shared.models import Batch, Classifier, EventType, Job, JobState, Modality, Priority, Result, ResultOutcome

RESEARCH_USE = "Decision support for research; not a medical device. A radiologist decides."


class ProblemRef(BaseModel):
    """Why a job or an image failed; `type` is documented at /problems."""

    type: str
    title: str
    detail: str


class Rejection(StrEnum):
    """Why an image, or a whole study, is not answered although it can be read. The words are stable."""

    NOT_A_CHEST_IMAGE = "not-a-chest-image"  #: neither a chest X-ray nor a chest CT slice, as far as the gate can tell
    ENSEMBLE_NEEDS_XRAY = "ensemble-needs-xray"  #: a CT slice, and the ensemble was asked
    OTHER_MODALITY = "other-modality"  #: a chest image, of the modality that fewer of the study's images have


class ReviewReason(StrEnum):
    """Why a radiologist should look twice at an answer. The words are stable."""

    THIN_MARGIN = "thin-margin"  #: the two likeliest classes are closer than the model card's `review_margin`
    CLASSIFIERS_DISAGREE = "classifiers-disagree"  #: ensemble and binary classifier differ about COVID-19
    IMAGES_DISAGREE = "images-disagree"  #: an image clearly shows another class than the study as a whole
    MODALITY_CORRECTED = "modality-corrected"  #: the images are not of the modality that they were sent as
    IMAGES_LEFT_OUT = "images-left-out"  #: the answer does not speak of every image: see `rejected` and `problem`


class ImagePrediction(BaseModel):
    """One image: its answer, or why it was rejected, or the problem that it has."""

    image_id: str
    file: int = Field(description="Index of the file in the request, from 0")
    frame: int = Field(description="Index of the frame in the file, from 0")
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    rejected: Rejection | None = Field(None, description="Why a readable image is not answered")
    heatmap: str | None = Field(None, description="Path of where the network looked for the image's prediction")
    problem: ProblemRef | None = None


class BundleRef(BaseModel):
    """The model bundle that answered."""

    name: str
    version: str
    sha256: str


class SecondOpinion(BaseModel):
    """What the binary classifier says to images that the ensemble was asked about; combined as the answer is."""

    classifier: Classifier
    prediction: str
    probabilities: dict[str, float]


class JobResult(BaseModel):
    """What a job that succeeded came to: an answer, or why its input was rejected.

    The answer for a study of several images is the mean of its answered images' probabilities. Their modality is the
    one that most chest images among them have (as sent, when it is a tie); images of the other one are left out.
    """

    outcome: ResultOutcome
    reason: Rejection | None = Field(None, description="Of a rejected input: why, as a stable word")
    detail: str | None = Field(None, description="Of a rejected input: why, as a sentence")
    prediction: str | None
    probabilities: dict[str, float] | None
    modality: Modality = Field(description="What the images are; the study's own `modality` is what they were sent as")
    modality_corrected: bool
    needs_review: bool
    review_reasons: list[ReviewReason]
    second_opinion: SecondOpinion | None
    aggregate: str = Field(description="How images were combined: `single`, `mean`, or `none` of a rejected input")
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


def result_of(result: Result, sent_as: Modality) -> JobResult:
    """The result row as clients see it."""
    answered = sum(1 for image in result.images if image.get("prediction") is not None)
    return JobResult(
        outcome=result.outcome,
        reason=None if result.reason is None else Rejection(result.reason),
        detail=result.detail,
        prediction=result.prediction,
        probabilities=result.probabilities,
        modality=result.corrected_modality or sent_as,
        modality_corrected=result.corrected_modality is not None,
        needs_review=bool(result.review_reasons),
        review_reasons=[ReviewReason(word) for word in result.review_reasons],
        second_opinion=SecondOpinion.model_validate(result.second_opinion) if result.second_opinion else None,
        aggregate={0: "none", 1: "single"}.get(answered, "mean"),
        images=[_image(result.job_id, image) for image in result.images],
        model=BundleRef(name=result.bundle.name, version=result.bundle.version, sha256=result.bundle.sha256),
        timings=result.timings,
    )


def _image(job_id: str, stored: dict[str, Any]) -> ImagePrediction:
    """The row holds the heatmap's id."""
    heatmap = stored.get("heatmap")
    return ImagePrediction.model_validate(stored | {"heatmap": heatmap and artifact_path(job_id, heatmap)})


def artifact_path(job_id: str, artifact_id: str) -> str:
    """Where the API serves an artifact."""
    return f"/v1/jobs/{job_id}/artifacts/{artifact_id}"


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
        result=result_of(job.result, job.study.modality) if job.result else None,
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
