"""A job as it is queued, and its row; shared/jobs/states.py inserts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.db.bulk_insert import Rows as InsertedRows
from shared.db.tables import Classifier, Job, JobState, Priority


@dataclass(frozen=True)
class NewJob:
    """A job that is to be queued, for a study that is stored; `item`, `member` and `custom_id` are a batch's."""

    id: str
    tenant_id: str
    study_id: str
    classifier: Classifier
    priority: Priority
    external_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    batch_id: str | None = None
    item: int | None = None
    member: str | None = None
    custom_id: str | None = None
    expires_at: datetime | None = None
    force: bool = False


def job_rows(jobs: Sequence[NewJob]) -> InsertedRows:
    """As `submit_many` inserts them."""
    return Job, [_row(job) for job in jobs]


def _row(job: NewJob) -> dict[str, Any]:
    expires_at = job.expires_at and job.expires_at.isoformat()
    return {**vars(job), "rank": job.priority.rank, "state": JobState.QUEUED, "expires_at": expires_at}
