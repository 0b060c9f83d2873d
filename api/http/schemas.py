"""The JSON shapes that belong to no noun: errors, pages, readiness."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.http.fields import Id


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


class PageQuery(Strict):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Id | None = Field(None, description="`next_cursor` of the page before")


class Readiness(BaseModel):
    """Each part that the service needs: `ok`, or what is wrong with it."""

    status: Literal["ready", "unready"]
    checks: dict[str, str]
