"""The JSON shapes of keys and of the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from api.http.fields import PLAIN, Moment
from api.http.schemas import Strict
from shared.keys import Scope

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PLAIN)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[!-~]+$")]


class KeyRequest(Strict):
    """A new key."""

    name: Name = Field(description="What the key is for")
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    expires_at: Moment | None = Field(None, description="Without it the key does not expire")


class KeyPath(BaseModel):
    """A key's id in the path."""

    key_id: str


class KeyView(BaseModel):
    """A key as its tenant's admins see it; `prefix` is its beginning, to recognise it by."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute")


class KeySecretView(KeyView):
    """With the key itself, in the answer that made it; null when the same request is sent again."""

    key: str | None


class KeyList(BaseModel):
    """A page of keys, newest first."""

    object: Literal["list"] = "list"
    data: list[KeyView]
    next_cursor: str | None


class AuditQuery(Strict):
    """Filters of the audit log, and its page."""

    actor: Word | None = Field(None, description="A key's id, `thoraq-admin` or `sweeper`")
    action: Word | None = Field(None, description="For example `job.cancel`")
    subject: Word | None = Field(None, description="The id of what was acted on")
    limit: int = Field(50, ge=1, le=200)
    cursor: int | None = Field(None, ge=1, le=2**63 - 1, description="`next_cursor` of the page before")


class AuditView(BaseModel):
    """One act: who did what to which thing, and when."""

    id: int
    object: Literal["audit_entry"] = "audit_entry"
    actor: str
    action: str
    subject: str
    created_at: datetime


class AuditList(BaseModel):
    """A page of the audit log, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditView]
    next_cursor: int | None
