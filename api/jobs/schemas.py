"""The JSON shapes of jobs and their artifacts, but for the job itself: that is in shared/jobs/schemas.py."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic import Strict as Strictly

from api.http.fields import ExpiresIn, ExternalId, Force, Id, JsonNumber, Metadata
from api.http.schemas import Strict
from api.studies.schemas import StudyForm
from shared.db.tables import ArtifactKind, Classifier, JobState, Modality, Priority
from shared.jobs.schemas import JobEnvelope


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
    include: Literal["result"] | None = Field(
        None,
        description="`result`: with each image's own result; a page ends early where its jobs have very many images",
    )
    limit: int = Field(50, ge=1, le=200)
    cursor: Id | None = Field(None, description="`next_cursor` of the page before")


class JobPath(BaseModel):
    """A job's id in the path."""

    job_id: str


class ArtifactPath(JobPath):
    """A job's and one of its artifacts' ids in the path."""

    artifact_id: str


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
