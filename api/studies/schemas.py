"""The JSON shapes of studies, of their images, and of the direct uploads that images are made of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.http.fields import ExternalId, FormMetadata, Id, JsonBool, JsonNumber, Metadata
from api.http.schemas import Strict
from shared.db.tables import Classifier, Modality, Priority
from shared.jobs.schemas import ProblemRef


class StudyForm(Strict):
    """The fields beside `files` when a study is sent."""

    modality: Modality | None = None
    external_id: ExternalId | None = None
    metadata: FormMetadata = Field(default_factory=dict, validate_default=False)


class StudyPath(BaseModel):
    """A study's id in the path."""

    study_id: str


class ImagePath(StudyPath):
    """A study's and one of its images' ids in the path."""

    image_id: str


class StudyRequest(Strict):
    """A study of direct uploads; or one that is opened, empty or not, for images that come in pieces."""

    upload_ids: list[Id] = Field(default_factory=list, max_length=2_000)
    modality: Modality | None = Field(None, description="What only DICOM files say themselves")
    external_id: ExternalId | None = None
    metadata: Metadata = Field(default_factory=dict)
    open: JsonBool = Field(False, description="Images will be added: close it with `complete`, or let it become quiet")
    expected_images: Annotated[int, JsonNumber] | None = Field(
        None, ge=1, le=1_000_000, description="If open: close it with this many images"
    )
    quiet_seconds: Annotated[float, JsonNumber] | None = Field(
        None, gt=0, le=86_400, description="If open: close it when nothing was added for so long"
    )
    classifiers: list[Classifier] = Field(
        default_factory=list, max_length=len(Classifier), description="If open: a job for each, when it is closed"
    )
    priority: Priority = Field(Priority.ROUTINE, description="If open: of those jobs")


class AddImagesForm(Strict):
    """Nothing stands beside `files` when images are added to an open study."""


class AddImagesRequest(Strict):
    """Direct uploads that become images of an open study."""

    upload_ids: list[Id] = Field(min_length=1, max_length=2_000)


class Deidentified(BaseModel):
    """What the Basic Profile (DICOM PS3.15, Annex E) did to a file's elements, by keyword; UIDs were replaced."""

    removed: list[str]
    replaced: list[str]


class ImageView(BaseModel):
    """An image of a study; `problem` says why it cannot be classified."""

    id: str
    file: int
    file_name: str | None = Field(description="As it was sent, with its path if it had one; null for a direct upload")
    frame: int
    sha256: str = Field(
        description="Of the file as it is kept: a DICOM file that was de-identified has another than it had"
    )
    size_bytes: int
    media_type: str | None
    width: int | None
    height: int | None
    problem: ProblemRef | None
    burned_in_annotation: bool = Field(description="DICOM says that text is burned into the pixels; it stays there")
    deidentified: Deidentified | None = Field(
        description="Of a file's first image: what was done to its header; null: it is as it was sent"
    )


class StudyView(BaseModel):
    """A study as clients see it."""

    id: str
    object: Literal["study"] = "study"
    modality: Modality
    external_id: str | None
    metadata: dict[str, Any]
    created_at: datetime
    open: bool = Field(description="Images may still be added")
    expected_images: int | None
    closes_at: datetime | None = Field(description="While open: when it is closed, if nothing is added before")
    classifiable: bool = Field(description="Closed, with at least one image that can be read")
    jobs: list[str] = Field(description="The ids of its jobs, oldest first")
    images: list[ImageView]


class AddedFile(BaseModel):
    """What became of one file that was sent to an open study, by its index in the request."""

    file: int
    status: Literal["added", "already-there"] = Field(description="`already-there`: the study has the same bytes")


class ImagesAdded(BaseModel):
    """What became of the files that were sent to an open study, and the study since then."""

    object: Literal["images_added"] = "images_added"
    files: list[AddedFile]
    study: StudyView
