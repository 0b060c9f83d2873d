"""What the server answers about batches, typed; see models.py."""

from __future__ import annotations

from datetime import datetime

from client.models import Answer, Job, Problem


class BatchCounts(Answer):
    """Jobs of a batch by state; `rejected` items never became a job."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    quarantined: int
    rejected: int

    @property
    def done(self) -> int:
        """Items that have ended, in whatever way."""
        return self.total - self.queued - self.running

    @property
    def unanswered(self) -> int:
        """Items that have ended without an answer."""
        return self.done - self.succeeded


class IgnoredFiles(Answer):
    """Files that lay beside the images and became no item; `names` are the first of them."""

    count: int = 0
    names: tuple[str, ...] = ()


class Batch(Answer):
    """Many jobs that were sent together.

    While it is `receiving`, `next_item` is the number (from 0) of the first item that the server does not have.
    `problem` says why it was refused as a whole.
    """

    id: str
    object: str = "batch"
    status: str
    external_id: str | None = None
    counts: BatchCounts
    next_item: int = 0
    created_at: datetime
    received_at: datetime | None = None
    started_at: datetime | None = None
    cancelled_at: datetime | None = None
    expires_at: datetime | None = None
    completed_at: datetime | None = None
    problem: Problem | None = None
    ignored: IgnoredFiles = IgnoredFiles()

    @property
    def done(self) -> bool:
        """Whether every job of the batch has ended and no more can come."""
        return self.status not in {"receiving", "running"}

    @property
    def failed(self) -> bool:
        """Whether it has ended with items that have no answer."""
        return self.done and self.status != "completed"


class BatchResult(Answer):
    """An item of a batch that became a job, as the job is now; `member` is the file's name in what was sent."""

    item: int
    member: str | None = None
    custom_id: str | None = None
    job: Job


class BatchError(Answer):
    """An item of a batch without an answer, and why; one that was `rejected` never became a job."""

    item: int
    member: str | None = None
    custom_id: str | None = None
    job_id: str | None = None
    status: str
    problem: Problem | None = None
