"""The one shape of a batch, for polling, lists and webhooks, and how it is made from its row."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from shared.db.tables import (
    Batch,
    Classifier,
    Grouping,
    Modality,
    Priority,
)
from shared.jobs.schemas import ProblemRef, private_fields

#: Names of files that were left out, in a batch.
SHOWN_IGNORED = 50


class BatchCounts(BaseModel):
    """Items of a batch by the states of their jobs; `rejected` ones never became a job."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    quarantined: int
    rejected: int


class IgnoredFiles(BaseModel):
    """Files of an archive that became no item: what systems put beside the pictures, and DICOM's index (DICOMDIR)."""

    count: int
    names: list[str] = Field(description="The first of them, 50 at most")


class BatchProblem(ProblemRef):
    """Why a batch's archive was refused as a whole."""

    member: str | None = Field(None, description="Name of the member for which it was refused, if it was for one")


class BatchStatus(StrEnum):
    """Where a batch is."""

    RECEIVING = "receiving"  #: its items still arrive; those that are in may run
    RUNNING = "running"  #: all items are in, some have not ended
    COMPLETED = "completed"  #: every item has an answer
    COMPLETED_WITH_ERRORS = "completed_with_errors"  #: every item has ended, some without an answer
    CANCELLED = "cancelled"  #: withdrawn; nothing of it runs any more
    EXPIRED = "expired"  #: some of it had not run when its time was over


class BatchEnvelope(BaseModel):
    """A batch as clients see it. Its items are elsewhere, so that it costs the same however many there are."""

    id: str
    object: str = "batch"
    status: BatchStatus
    external_id: str | None = None
    classifier: Classifier | None = Field(None, description="As asked for; a line of NDJSON may have named another one")
    modality: Modality | None = None
    priority: Priority | None = None
    group_by: Grouping | None = None
    force: bool = False
    counts: BatchCounts
    ignored: IgnoredFiles
    next_item: int = Field(description="Items that are in, without a gap from 0: where a broken upload goes on")
    created_at: datetime
    received_at: datetime | None
    started_at: datetime | None
    cancelled_at: datetime | None
    expires_at: datetime | None
    completed_at: datetime | None
    problem: BatchProblem | None = Field(
        None, description="Why its archive was refused as a whole; it is cancelled then"
    )
    results_url: str
    errors_url: str
    events_url: str

    @property
    def ended(self) -> bool:
        """Whether all of it is in and every job of it has ended."""
        return self.completed_at is not None


def batch_envelope(batch: Batch) -> BatchEnvelope:
    """Return the batch row as clients see it: one row, however large the batch."""
    path = f"/v1/batches/{batch.id}"
    return BatchEnvelope(
        id=batch.id,
        status=_batch_status(batch),
        external_id=batch.external_id,
        **batch.options,
        counts=BatchCounts.model_validate(batch, from_attributes=True),
        ignored=IgnoredFiles(count=batch.ignored, names=batch.ignored_names[:SHOWN_IGNORED]),
        next_item=batch.next_item,
        created_at=batch.created_at,
        received_at=batch.received_at,
        started_at=batch.started_at,
        cancelled_at=batch.cancelled_at,
        expires_at=batch.expires_at,
        completed_at=batch.completed_at,
        problem=BatchProblem.model_validate(batch.problem) if batch.problem else None,
        results_url=f"{path}/results",
        errors_url=f"{path}/errors",
        events_url=f"{path}/events",
    )


def _batch_status(batch: Batch) -> BatchStatus:
    if batch.received_at is None:
        return BatchStatus.RECEIVING
    if batch.completed_at is None:
        return BatchStatus.RUNNING
    if batch.cancelled_at is not None:
        return BatchStatus.CANCELLED
    if batch.expired:
        return BatchStatus.EXPIRED
    return BatchStatus.COMPLETED if batch.succeeded == batch.total else BatchStatus.COMPLETED_WITH_ERRORS


def batch_event(batch: Batch, *, labels: bool = False) -> dict[str, Any]:
    """Return the data of a batch's webhook; `labels`: with its external_id."""
    # Names of files, too, may name a patient.
    hidden: dict[str, Any] = {"ignored": {"names"}, "problem": {"member"}}
    hidden |= dict.fromkeys(private_fields(labels=labels), True)
    return batch_envelope(batch).model_dump(mode="json", exclude=hidden)
