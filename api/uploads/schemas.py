"""The JSON shapes of direct uploads."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.http.fields import JsonNumber, Sha256
from api.http.schemas import Strict
from shared.db.tables import Modality, UploadState


class AnnouncedFile(Strict):
    """A file that is going to be uploaded."""

    size_bytes: Annotated[int, JsonNumber] = Field(ge=1)
    sha256: Sha256


class UploadRequest(Strict):
    """The files that are going to be uploaded."""

    files: list[AnnouncedFile] = Field(min_length=1, max_length=1_000)


class UploadPath(BaseModel):
    """An upload's id in the path."""

    upload_id: str


class ContentQuery(Strict):
    """What makes an upload's address valid."""

    tenant: str
    expires: int
    signature: str


class UploadAddress(BaseModel):
    """Where to put one announced file: the bytes as they are, with these headers and a Content-Length."""

    id: str
    url: str
    method: Literal["PUT"] = "PUT"
    headers: dict[str, str]
    expires_at: datetime


class UploadAddressList(BaseModel):
    """An address for each file, in the order in which they were announced."""

    object: Literal["list"] = "list"
    data: list[UploadAddress]


class UploadView(BaseModel):
    """A direct upload; what its header says is there once it is complete."""

    id: str
    object: Literal["upload"] = "upload"
    state: UploadState
    size_bytes: int
    sha256: str
    media_type: str | None
    width: int | None
    height: int | None
    frames: int | None
    modality: Modality | None
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime
