"""What the server answers, typed.

Unknown fields are kept, so that a newer server's answers pass through unharmed. For the same reason states are
text: a client must not break on a state that it does not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from client.errors import ClientError

Classifier = Literal["binary", "ensemble"]
Modality = Literal["xray", "ct"]
Priority = Literal["stat", "routine", "bulk"]
Grouping = Literal["file", "folder", "study", "series"]

RESEARCH_USE = "Decision support for research; not a medical device. A radiologist decides."


class Answer(BaseModel):
    """Anything that the server answers."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Problem(Answer):
    """Why a job, an image or a file failed; the server's /problems page explains each type."""

    type: str
    title: str
    detail: str


class ImagePrediction(Answer):
    """One image's answer, or why it has none; `file` and `frame` count from 0 in the order that was sent.

    `problem`: it could not be read. `rejected`: it is no picture that the classifier answers for. `heatmap` is the
    path of its heatmap on the server.
    """

    image_id: str
    file: int
    frame: int
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    problem: Problem | None = None
    rejected: str | None = None
    heatmap: str | None = None


class Bundle(Answer):
    """The model bundle that answered."""

    name: str
    version: str
    sha256: str


class SecondOpinion(Answer):
    """What the other classifier says of the same images."""

    classifier: str
    prediction: str
    probabilities: dict[str, float]


class JobResult(Answer):
    """The answer; for several images the mean of their probabilities. Timings are in seconds.

    `outcome` is `answered` or `rejected_input`: then there are a `reason` (a stable word) and a `detail` (a
    sentence), and neither prediction nor probabilities.
    `modality` is the one that was answered for, and `modality_corrected` whether another had been sent.
    `reused_from` is the earlier job whose answer this is, when the very same bytes were answered before.
    """

    outcome: str = "answered"
    reason: str | None = None
    detail: str | None = None
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    modality: str | None = None
    modality_corrected: bool = False
    needs_review: bool = False
    review_reasons: list[str] = []
    second_opinion: SecondOpinion | None = None
    aggregate: str
    images: list[ImagePrediction]
    model: Bundle
    reused_from: str | None = None
    timings: dict[str, float]
    notice: str = RESEARCH_USE

    @property
    def rejected(self) -> bool:
        """Whether the images were none that the classifier answers for."""
        return self.outcome == "rejected_input"


class Artifact(Answer):
    """Something that belongs to a job's result; a `heatmap` shows where the network looked for `class_name`."""

    id: str
    object: str = "artifact"
    kind: str
    image_id: str
    class_name: str = Field(alias="class")
    url: str
    created_at: datetime | None = None


class Job(Answer):
    """One classifier's run over one study."""

    id: str
    object: str = "job"
    status: str
    study_id: str
    batch_id: str | None = None
    classifier: str
    modality: str
    priority: str
    served_as: str = ""
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    image_count: int
    attempts: int = 0
    position: int | None = None
    estimated_wait_seconds: float | None = None
    created_at: datetime
    queued_at: datetime | None = None
    expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: Problem | None = None
    result: JobResult | None = None

    @property
    def done(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.status not in {"queued", "running"}

    @property
    def failed(self) -> bool:
        """Whether the job has ended without an answer: failed, cancelled or quarantined."""
        return self.done and self.status != "succeeded"

    def answer(self) -> JobResult:
        """Return the result of a finished job. JobFailed if it ended without one; ValueError while it is not done."""
        if self.failed:
            raise JobFailed(self)
        if self.result is None:
            raise ValueError(f"job {self.id} is still {self.status}; wait for it first")
        return self.result


class StudyImage(Answer):
    """One image of a study; `problem` says why it cannot be classified."""

    id: str
    file: int
    frame: int
    sha256: str
    size_bytes: int
    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    problem: Problem | None = None


class Study(Answer):
    """What was sent: one or more images of one modality."""

    id: str
    object: str = "study"
    modality: str
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime
    images: list[StudyImage]


class Model(Answer):
    """A model bundle that the server knows, with its model card.

    `serving`: a worker answers with it now. `active`: it is the one that all workers are to serve.
    """

    name: str
    version: str
    sha256: str
    card: dict[str, Any] = {}
    active: bool = False
    serving: bool


class ApiKey(Answer):
    """A key of the tenant; `key`, the key itself, is there only when it was just made."""

    id: str
    object: str = "api_key"
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    key: str | None = Field(None, repr=False)  # a repr ends up in logs


class AuditEntry(Answer):
    """One act: who did what to which thing."""

    id: int
    object: str = "audit_entry"
    actor: str
    action: str
    subject: str
    created_at: datetime


class Endpoint(Answer):
    """A webhook endpoint; `secret` is there only when it was just made or rotated."""

    id: str
    object: str = "webhook_endpoint"
    url: str
    description: str | None = None
    events: list[str]
    enabled: bool
    disabled_reason: str | None = None
    created_at: datetime
    secret: str | None = Field(None, repr=False)  # a repr ends up in logs


class DeliveryAttempt(Answer):
    """One try to hand an event over."""

    number: int
    status_code: int | None = None
    error: str | None = None
    duration_ms: float | None = None
    created_at: datetime | None = None


class Delivery(Answer):
    """One event on its way to one endpoint."""

    id: str
    object: str = "delivery"
    event_id: str
    type: str
    state: str
    attempts: list[DeliveryAttempt] = []
    next_attempt_at: datetime | None = None


class JobFailed(ClientError):
    """The job ended without an answer: failed, cancelled or quarantined."""

    def __init__(self, job: Job) -> None:
        reason = job.error.detail if job.error else "no reason given"
        super().__init__(f"job {job.id} is {job.status}: {reason}")
        self.job = job
