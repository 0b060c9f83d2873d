"""Every JSON shape that is not a job or a batch (those are in shared/jobs/schemas.py), and every form and query."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic import Strict as Strictly

from api.http.fields import (
    Description,
    ExpiresIn,
    ExternalId,
    Force,
    FormMetadata,
    Id,
    JsonBool,
    JsonNumber,
    Metadata,
    Moment,
    Url,
)
from shared.db.tables import ArtifactKind, Classifier, DeliveryState, EventType, JobState, Modality, Priority
from shared.jobs.schemas import JobEnvelope


class Strict(BaseModel):
    """Requests: an unknown field is an error, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid")


class FieldError(BaseModel):
    """A field that is wrong."""

    field: str
    pointer: str | None = Field(None, description="Where it is in what was sent: a JSON pointer as a URI fragment")
    message: str


class Problem(BaseModel):
    """RFC 9457 problem document; types are listed at /problems."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None


class StudyForm(Strict):
    """The fields beside `files` when a study is sent."""

    modality: Modality | None = None
    external_id: ExternalId | None = None
    metadata: FormMetadata = Field(default_factory=dict, validate_default=False)


class JobForm(StudyForm):
    """The fields beside `files` when a study is sent to be classified."""

    classifier: Classifier
    priority: Priority = Priority.ROUTINE
    expires_in: ExpiresIn | None = None
    force: Force = False


class JobRequest(Strict):
    """A job for a study that is here already, or for a new one of direct uploads."""

    study_id: Id | None = None
    upload_ids: list[Id] = Field(default_factory=list, max_length=2_000)
    modality: Modality | None = Field(None, description="With `upload_ids`: what only DICOM files say themselves")
    classifier: Classifier
    priority: Priority = Priority.ROUTINE
    external_id: ExternalId | None = None
    metadata: Metadata | None = None
    expires_in: Annotated[ExpiresIn, JsonNumber] | None = None
    force: Annotated[Force, Strictly()] = False


class JobQuery(Strict):
    """Filters of the list of jobs."""

    status: JobState | None = None
    classifier: Classifier | None = None
    study_id: Id | None = None
    batch_id: Id | None = None
    external_id: ExternalId | None = None
    limit: int = Field(50, ge=1, le=200)
    cursor: Id | None = Field(None, description="`next_cursor` of the page before")


class PageQuery(Strict):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Id | None = Field(None, description="`next_cursor` of the page before")


class JobPath(BaseModel):
    """A job's id in the path."""

    job_id: str


class ArtifactPath(JobPath):
    """A job's and one of its artifacts' ids in the path."""

    artifact_id: str


class StudyPath(BaseModel):
    """A study's id in the path."""

    study_id: str


class ImagePath(StudyPath):
    """A study's and one of its images' ids in the path."""

    image_id: str


class BatchPath(BaseModel):
    """A batch's id in the path."""

    batch_id: str


class EndpointPath(BaseModel):
    """A webhook endpoint's id in the path."""

    endpoint_id: str


class DeliveryPath(BaseModel):
    """A delivery's id in the path."""

    delivery_id: str


class JobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobEnvelope]
    next_cursor: str | None


class ArtifactView(BaseModel):
    """Something that belongs to a job's result; a heatmap speaks of one class on one image."""

    id: str
    object: Literal["artifact"] = "artifact"
    kind: ArtifactKind
    image_id: str
    class_name: str = Field(serialization_alias="class", description="The class predicted for the image")
    media_type: Literal["image/png"] = "image/png"
    url: str
    created_at: datetime


class ArtifactList(BaseModel):
    """All of a job's artifacts, in the order of its images."""

    object: Literal["list"] = "list"
    data: list[ArtifactView]


class ModelView(BaseModel):
    """A model bundle and its card; `serving`: a live worker answers with it; `active`: all workers are to."""

    name: str
    version: str
    sha256: str
    active: bool
    serving: bool
    card: dict[str, Any]


class ModelPath(BaseModel):
    """A bundle's SHA-256 in the path."""

    sha256: str


class ModelList(BaseModel):
    """The bundles that were stored or have answered, newest first."""

    object: Literal["list"] = "list"
    data: list[ModelView]


#: The types of events, or all of them; one set of words, not two, so that an error speaks of the field alone.
Subscription = Literal[
    "*", "job.succeeded", "job.failed", "job.cancelled", "job.quarantined", "batch.completed", "test"
]


class EndpointRequest(Strict):
    """A new webhook endpoint."""

    url: Url
    events: list[Subscription] = Field(min_length=1, max_length=20)
    description: Description = ""
    include_labels: JsonBool = Field(
        False, description="Events carry `external_id`, which you chose; leave it off if that names a patient"
    )


class EndpointUpdate(Strict):
    """What to change of an endpoint; enabling it again clears the reason."""

    url: Url | None = None
    events: list[Subscription] | None = Field(None, min_length=1, max_length=20)
    description: Description | None = None
    enabled: JsonBool | None = None


class EndpointView(BaseModel):
    """A webhook endpoint as clients see it."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    url: str
    description: str
    events: list[str]
    include_labels: bool = Field(description="Events carry `external_id`")
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="No delivery succeeded since then; null while they do")
    created_at: datetime


class ReplayRequest(Strict):
    """What to send an endpoint again."""

    since: Moment = Field(description="Events from then on")
    delivered: JsonBool = Field(False, description="Also those that were delivered; else only those that were missed")


class Replay(BaseModel):
    """How many deliveries were scheduled."""

    object: Literal["replay"] = "replay"
    endpoint_id: str
    scheduled: int
    more: bool = Field(description="There may be more of them: ask again once these are through")


class EndpointSecretView(EndpointView):
    """With the signing secret, in the answer that made it; null when the same request is sent again."""

    secret: str | None


class EndpointList(BaseModel):
    """A page of endpoints, newest first."""

    object: Literal["list"] = "list"
    data: list[EndpointView]
    next_cursor: str | None


class AttemptView(BaseModel):
    """One request to the receiver."""

    number: int
    status_code: int | None
    error: str | None = Field(description="Why it is no delivery, in words; null when the receiver took it")
    response_body: str | None = Field(description="The first 1,000 characters of the answer's body, if that is text")
    duration_ms: float
    created_at: datetime


class DeliveryView(BaseModel):
    """One event for one endpoint, with every attempt."""

    id: str
    object: Literal["delivery"] = "delivery"
    event_id: str
    endpoint_id: str
    type: EventType
    state: DeliveryState
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    attempts: list[AttemptView]


class DeliveryList(BaseModel):
    """A page of deliveries, newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]
    next_cursor: str | None


class Readiness(BaseModel):
    """Each part that the service needs: `ok`, or what is wrong with it."""

    status: Literal["ready", "unready"]
    checks: dict[str, str]
