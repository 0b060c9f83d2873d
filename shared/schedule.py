"""Who goes first: stat before routine before bulk, the oldest first, tenants in turn; and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.models import Job, JobState, Priority

# Each tenant's best jobs, then one tenant after the other within a rank.
CANDIDATES = sa.text("""
    SELECT id FROM (
        SELECT j.*, row_number() OVER (PARTITION BY j.tenant_id, j.rank ORDER BY j.queued_at, j.id) AS turn
        FROM tenants t CROSS JOIN LATERAL (
            SELECT id, tenant_id, rank, queued_at FROM jobs
            WHERE tenant_id = t.id AND state = 'queued' AND (not_before IS NULL OR not_before <= now())
            ORDER BY rank, queued_at, id LIMIT :many
        ) j
    ) ranked ORDER BY rank, turn, queued_at, id LIMIT :many
""").columns(id=sa.Text)


def next_in_line(session: Session, many: int) -> Sequence[str]:
    """Ids of jobs that may be claimed, best first. Nothing is locked: ask for more than are wanted, so that workers
    that look at the same time find something behind each other's locks.
    """
    return session.execute(CANDIDATES, {"many": many}).scalars().all()


def age(session: Session, after: timedelta) -> None:
    """Serve bulk jobs that waited long as routine ones, so that nothing starves; stat keeps its lead."""
    session.execute(
        sa.update(Job)
        .where(
            Job.state == JobState.QUEUED,
            Job.rank > Priority.ROUTINE.rank,
            Job.queued_at < sa.func.now() - after,
        )
        .values(rank=Priority.ROUTINE.rank)
        .execution_options(synchronize_session=False)
    )


def waiting(session: Session) -> bool:
    """Whether some job could be claimed now."""
    due = sa.or_(Job.not_before.is_(None), Job.not_before <= sa.func.now())
    return session.scalar(sa.select(sa.exists().where(Job.state == JobState.QUEUED, due))) or False


def place_in_line(session: Session, job: Job) -> tuple[int, float | None]:
    """How many jobs go first, and how many seconds that takes at the rate of the last five minutes (None: unknown)."""
    ahead = sa.tuple_(Job.rank, Job.queued_at, Job.id) < (job.rank, job.queued_at, job.id)
    position = session.scalar(sa.select(sa.func.count()).where(Job.state == JobState.QUEUED, ahead)) or 0
    finished, seconds = session.execute(
        sa.select(sa.func.count(), sa.extract("epoch", sa.func.now() - sa.func.min(Job.started_at))).where(
            Job.finished_at > sa.func.now() - timedelta(minutes=5), Job.started_at.is_not(None)
        )
    ).one()
    running = session.scalar(sa.select(sa.func.count()).where(Job.state == JobState.RUNNING)) or 0
    estimate = (position + running + 1) * float(seconds) / finished if finished and seconds else None
    return position, estimate
