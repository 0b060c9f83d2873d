"""The one shape of a job, for polling, lists, batch output and webhooks, and how it is made from rows.

Webhooks carry it without `metadata`, and without `external_id` unless the endpoint was made for it: what the client
attached may name a patient.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from shared.db.tables import (
    TERMINAL,
    Classifier,
    Job,
    JobState,
    Modality,
    Priority,
    Result,
    ResultOutcome,
)

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
    NOT_LUNG_WINDOW = "not-lung-window"  #: a CT slice without Hounsfield units, shown in another window than a lung's


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
    images: list[ImagePrediction] = Field(description="Empty in lists of jobs, unless asked for with `include=result`")
    model: BundleRef
    reused_from: str | None = Field(description="The job whose answer this is, to the same bytes; null: its own")
    timings: dict[str, float] = Field(description="Seconds: queued, load, infer, total")
    notice: str = RESEARCH_USE


class JobEnvelope(BaseModel):
    """A job as clients see it."""

    id: str
    object: str = "job"
    status: JobState
    study_id: str
    batch_id: str | None
    item: int | None = Field(None, description="Of a batch: number of the file or line, from 0")
    custom_id: str | None = Field(None, description="Of a batch of lines: the client's own name for the line")
    classifier: Classifier
    modality: Modality
    priority: Priority = Field(description="As asked for")
    served_as: Priority = Field(
        description="The line in which it waits: of stat jobs beyond the tenant's share, `routine`; of a job whose "
        "worker died, `stat`"
    )
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    image_count: int
    burned_in_annotation: bool = Field(
        description="A DICOM file of the study says that text is burned into its pixels; it stays there, names included"
    )
    attempts: int = Field(description="Transient errors and worker deaths so far")
    position: int | None = Field(
        None, description="While queued: how many jobs go first; of more than 5,000, the least that it can be"
    )
    estimated_wait_seconds: float | None = Field(
        None, description="While queued: for `position` jobs, at the pace of those that ended lately"
    )
    created_at: datetime
    queued_at: datetime
    expires_at: datetime | None = Field(description="Not run any more after this")
    started_at: datetime | None
    finished_at: datetime | None
    error: ProblemRef | None
    result: JobResult | None

    @property
    def ended(self) -> bool:
        """Whether it is terminal: nothing of it changes any more."""
        return self.status in TERMINAL


def result_of(result: Result, sent_as: Modality) -> JobResult:
    """Return the result row as clients see it."""
    answered = result.answered
    if answered is None:
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
        reused_from=result.reused_from,
        timings=result.timings,
    )


def _image(job_id: str, stored: dict[str, Any]) -> ImagePrediction:
    """Return an image as clients see it; its row holds the heatmap's id."""
    heatmap = stored.get("heatmap")
    return ImagePrediction.model_validate(stored | {"heatmap": heatmap and artifact_path(job_id, heatmap)})


def artifact_path(job_id: str, artifact_id: str) -> str:
    """Where the API serves an artifact."""
    return f"/v1/jobs/{job_id}/artifacts/{artifact_id}"


def job_envelope(job: Job) -> JobEnvelope:
    """Return the job row, with its study and result, as clients see it."""
    return JobEnvelope(
        id=job.id,
        status=job.state,
        study_id=job.study_id,
        batch_id=job.batch_id,
        item=job.item,
        custom_id=job.custom_id,
        classifier=job.classifier,
        modality=job.study.modality,
        priority=job.priority,
        served_as=Priority.of_rank(job.rank),
        external_id=job.external_id,
        metadata=job.extra,
        image_count=job.study.image_count,
        burned_in_annotation=job.study.burned_in,
        attempts=job.error_attempts + job.crash_attempts,
        created_at=job.created_at,
        queued_at=job.queued_at,
        expires_at=job.expires_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=ProblemRef.model_validate(job.error) if job.error else None,
        result=result_of(job.result, job.study.modality) if job.result else None,
    )


def private_fields(*, labels: bool) -> set[str]:
    """Fields that webhooks do not carry."""
    return {"metadata"} if labels else {"metadata", "external_id"}


def job_event(job: Job, *, labels: bool = False) -> dict[str, Any]:
    """Return the data of a job's webhook; `labels`: with its external_id."""
    return job_envelope(job).model_dump(mode="json", exclude=private_fields(labels=labels))
