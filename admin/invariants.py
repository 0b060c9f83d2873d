"""What holds at every moment in the database: queries for what breaks it, and how that is mended where it may be.

A terminal state never changes and a result is never made up: what breaks these is told, and not mended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.config import Settings
from shared.jobs import states
from shared.webhooks.outbox import WebhookEvent, emit

Mend = Callable[[Session, list[str], Settings], None]

# Before every query. A subscription counts for what ended after any transaction that had not seen it yet.
COMMON = """
    WITH given AS (SELECT make_interval(secs => :two_sweeps) AS two_sweeps),
    counts AS (
        SELECT b.id, coalesce(sum(j.n), 0) AS jobs,
            coalesce(sum(j.n) FILTER (WHERE state = 'queued'), 0) AS queued,
            coalesce(sum(j.n) FILTER (WHERE state = 'running'), 0) AS running,
            coalesce(sum(j.n) FILTER (WHERE state = 'succeeded'), 0) AS succeeded,
            coalesce(sum(j.n) FILTER (WHERE state = 'failed'), 0) AS failed,
            coalesce(sum(j.n) FILTER (WHERE state = 'cancelled'), 0) AS cancelled,
            coalesce(sum(j.n) FILTER (WHERE state = 'quarantined'), 0) AS quarantined
        FROM batches b LEFT JOIN (SELECT batch_id, state, count(*) AS n FROM jobs GROUP BY batch_id, state) j
            ON j.batch_id = b.id
        GROUP BY b.id
    ), ended AS (
        SELECT id, tenant_id, 'job.' || state AS type, finished_at AS at FROM jobs WHERE finished_at IS NOT NULL
        UNION ALL SELECT id, tenant_id, 'batch.completed', completed_at FROM batches WHERE completed_at IS NOT NULL
    ), told AS (
        SELECT coalesce(e.job_id, e.batch_id) AS id, d.endpoint_id FROM events e JOIN deliveries d ON d.event_id = e.id
    ), subscribed AS (
        SELECT ended.id, w.id AS endpoint_id FROM ended JOIN webhook_endpoints w ON w.tenant_id = ended.tenant_id
        WHERE w.enabled AND (ended.type = ANY (w.events) OR '*' = ANY (w.events))
        AND w.changed_at < ended.at - interval '30 seconds'
    ) """


@dataclass(frozen=True)
class Invariant:
    """A sentence, the query for the ids that break it, and what mends them."""

    says: str
    broken: str
    mend: Mend | None = None


def broken(session: Session, invariant: Invariant, settings: Settings) -> tuple[str, ...]:
    """Return the ids that break it now."""
    return tuple(session.scalars(sa.text(COMMON + invariant.broken), _given(settings)))


def _given(settings: Settings) -> dict[str, object]:
    return {"two_sweeps": 2 * settings.sweep_seconds}


def _rescue(session: Session, _: list[str], settings: Settings) -> None:
    while any(states.rescue(session, settings.max_crash_attempts)):
        pass  # some hundreds at a time


def _recount(session: Session, ids: list[str], settings: Settings) -> None:
    session.execute(sa.text("SELECT FROM batches WHERE id = ANY (:ids) ORDER BY id FOR NO KEY UPDATE"), {"ids": ids})
    session.execute(sa.text(COMMON + RECOUNT), {"ids": ids} | _given(settings))


def _complete(session: Session, ids: list[str], _: Settings) -> None:
    states.complete_batches(session, ids)


def _tell(session: Session, ids: list[str], _: Settings) -> None:
    """Make what is missing. What was told twice stays so: receivers know both by now."""
    rows = session.execute(UNTOLD, {"ids": ids}).all()
    emit(session, [WebhookEvent(row.tenant_id, row.type, job_id=row.job_id, batch_id=row.batch_id) for row in rows])
    session.execute(DELIVER_REST, {"ids": ids})


RECOUNT = """
    UPDATE batches b SET queued = c.queued, running = c.running, succeeded = c.succeeded, failed = c.failed,
        cancelled = c.cancelled, quarantined = c.quarantined
    FROM counts c WHERE c.id = b.id AND b.id = ANY (:ids)"""
UNTOLD = sa.text("""
    SELECT tenant_id, 'job.' || state AS type, id AS job_id, NULL AS batch_id FROM jobs
    WHERE id = ANY (:ids) AND NOT EXISTS (SELECT FROM events WHERE job_id = jobs.id)
    UNION ALL SELECT tenant_id, 'batch.completed', NULL, id FROM batches
    WHERE id = ANY (:ids) AND NOT EXISTS (SELECT FROM events WHERE batch_id = batches.id)""")
# With the ids that shared/webhooks/outbox.py would have given them: one that was lost and is made again has the same.
DELIVER_REST = sa.text("""
    INSERT INTO deliveries (id, tenant_id, event_id, endpoint_id, state)
    SELECT 'dlv_' || substr(e.id, 5, 12) || left(md5(e.id || w.id), 20), e.tenant_id, e.id, w.id, 'pending'
    FROM events e JOIN webhook_endpoints w ON w.tenant_id = e.tenant_id AND w.changed_at < e.created_at
        AND w.enabled AND (e.type = ANY (w.events) OR '*' = ANY (w.events))
    WHERE coalesce(e.job_id, e.batch_id) = ANY (:ids)
    ON CONFLICT (event_id, endpoint_id) DO NOTHING""")

#: In the order in which they are looked at and mended.
INVARIANTS = (
    Invariant(
        "every accepted job and batch is there",
        """
        SELECT subject FROM audit_log WHERE action = 'job.submit' AND NOT EXISTS (SELECT FROM jobs WHERE id = subject)
        UNION SELECT subject FROM audit_log
        WHERE action = 'batch.submit' AND NOT EXISTS (SELECT FROM batches WHERE id = subject)
        EXCEPT SELECT subject FROM audit_log WHERE action IN ('job.delete', 'batch.delete')""",
    ),
    Invariant(
        "every item of a batch is a job or was rejected",
        "SELECT b.id FROM batches b JOIN counts c ON c.id = b.id WHERE b.total <> c.jobs + b.rejected",
    ),
    Invariant(
        "a job that succeeded has a result",
        "SELECT id FROM jobs LEFT JOIN results ON job_id = id WHERE state = 'succeeded' AND job_id IS NULL",
    ),
    Invariant(
        "a result belongs to a job that succeeded",
        "SELECT job_id FROM results JOIN jobs ON id = job_id WHERE state <> 'succeeded'",
    ),
    Invariant(
        "no lease ran out more than two sweeps ago",
        "SELECT id FROM jobs, given WHERE state = 'running' AND lease_until < now() - two_sweeps",
        _rescue,
    ),
    Invariant(
        "a batch counts its jobs rightly",
        """
        SELECT b.id FROM batches b JOIN counts c ON c.id = b.id
        WHERE (b.queued, b.running, b.succeeded, b.failed, b.cancelled, b.quarantined)
            IS DISTINCT FROM (c.queued, c.running, c.succeeded, c.failed, c.cancelled, c.quarantined)""",
        _recount,
    ),
    Invariant(
        "a batch is complete when all of it is in and nothing of it is left to do",
        """
        SELECT id FROM batches
        WHERE (received_at IS NOT NULL AND queued + running = 0) <> (completed_at IS NOT NULL)""",
        _complete,
    ),
    Invariant(
        "what ended has one delivery per endpoint that was subscribed",
        """
        SELECT DISTINCT s.id FROM subscribed s LEFT JOIN told t ON t.id = s.id AND t.endpoint_id = s.endpoint_id
        GROUP BY s.id, s.endpoint_id HAVING count(t.id) <> 1""",
        _tell,
    ),
    Invariant(
        "an event tells what became of its job, once",
        """
        SELECT e.id FROM events e JOIN jobs j ON j.id = e.job_id WHERE e.type <> 'job.' || j.state
        UNION SELECT max(id) FROM events WHERE job_id IS NOT NULL GROUP BY job_id HAVING count(*) > 1""",
    ),
    Invariant(
        "of a deleted study nothing is left",
        """SELECT study_id FROM tombstones t WHERE EXISTS (SELECT FROM studies s WHERE s.id = t.study_id)
        OR EXISTS (SELECT FROM images i WHERE i.study_id = t.study_id)
        OR EXISTS (SELECT FROM jobs j WHERE j.study_id = t.study_id)""",
    ),
)
