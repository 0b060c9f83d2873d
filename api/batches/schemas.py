"""The JSON shapes of batches that are not the batch itself: what is sent, the list, and the lines of its outputs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.http.fields import PLAIN, ExpiresIn, ExternalId, Force, Id, Metadata
from api.http.schemas import FieldError, PageQuery, Strict
from shared.db.tables import Classifier, Grouping, Modality, Priority
from shared.jobs.batch_schemas import BatchEnvelope
from shared.jobs.schemas import JobEnvelope, ProblemRef

UploadIds = Annotated[list[Id], Field(min_length=1, max_length=2_000)]


class BatchPath(BaseModel):
    """A batch's id in the path."""

    batch_id: str


class BatchForm(Strict):
    """How a batch is run: the fields beside `files` in multipart, and query parameters with the other bodies."""

    classifier: Classifier
    modality: Modality | None = Field(
        None, description="Of files that do not say it; DICOM files do, and go by what they say, study by study"
    )
    priority: Priority = Priority.BULK
    group_by: Grouping = Field(Grouping.FILE, description="What makes a study of files: see `Grouping`")
    external_id: ExternalId | None = None
    expires_in: ExpiresIn | None = None
    force: Force = False


class BatchQuery(BatchForm):
    """The same as query parameters, and where a request goes on that broke off."""

    first_item: int = Field(0, ge=0, description="Number of the body's first item: an earlier answer's `next_item`")


class BatchLine(Strict):
    """A line of NDJSON: one study that is stored or uploaded. What it says itself goes before the query's options."""

    custom_id: ExternalId | None = Field(None, description="Comes back with the item's result or error")
    upload_id: Id | None = None
    upload_ids: UploadIds | None = None
    study_id: Id | None = None
    classifier: Classifier | None = None
    modality: Modality | None = None
    priority: Priority | None = None
    external_id: ExternalId | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.upload_id, self.upload_ids, self.study_id)) != 1:
            raise ValueError("name one of upload_id, upload_ids and study_id")
        return self


class BatchList(BaseModel):
    """A page of batches, newest first."""

    object: Literal["list"] = "list"
    data: list[BatchEnvelope]
    next_cursor: str | None


class BatchListQuery(PageQuery):
    """Filters of the list of batches."""

    external_id: ExternalId | None = None
    idempotency_key: str | None = Field(
        None, max_length=255, pattern=PLAIN, description="The batch that was begun with this key"
    )


class OutputQuery(Strict):
    """The form of a batch's output; without it, `Accept: text/csv` asks for CSV."""

    format: Literal["ndjson", "csv"] | None = None


class ResultLine(BaseModel):
    """An item of a batch that became a job, as the job is now."""

    item: int = Field(description="Number of the file or line, from 0; of a group of files, of its first one")
    member: str | None = Field(description="Name of the file, or the folder, as it was sent")
    custom_id: str | None
    job: JobEnvelope


class ItemProblem(ProblemRef):
    """Why an item has no answer; of a line, with the fields that are wrong."""

    errors: list[FieldError] | None = None


class ErrorLine(BaseModel):
    """An item of a batch that ended without an answer."""

    item: int
    member: str | None
    custom_id: str | None
    job_id: str | None
    status: Literal["rejected", "failed", "cancelled", "quarantined"]
    problem: ItemProblem | None
