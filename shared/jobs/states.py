"""The only writer of job states.

    queued -> running -> succeeded | failed | cancelled | quarantined
    queued -> failed        its time was over before it ran
    queued -> cancelled
    running -> queued       transient error (with `not_before`), release, expired lease

The database is the truth: a worker may do what a claim here allows, for as long as its lease lasts, by the
database's clock. Every write of a worker is guarded by its lease token (a fencing token), so a worker that was
thought dead cannot overwrite the one that took over. Triggers (migrations 0005 and 0014) hold the same rules.

Every function takes the caller's transaction; what a terminal state brings with it (result, events, the batch's
completion) happens in that same transaction, by a handful of statements however many jobs there are. Nobody waits for
each other in a circle: jobs are locked in the order of their ids and before batches, and one statement moves them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from shared.db.bulk_insert import insert_rows
from shared.db.listen_notify import announce
from shared.db.lookup import existing
from shared.db.tables import TERMINAL, Batch, BatchFile, EventType, Job, JobState, Priority
from shared.errors import Conflict, Expired, ThoraqError, WorkerCrashed, problem_of
from shared.jobs import results
from shared.jobs.claims import Claim, Outcome, RetryPolicy, claims_of
from shared.jobs.new_jobs import NewJob, job_rows
from shared.jobs.scheduling import fill, lock_next
from shared.jobs.statements import CLAIM, FINISH
from shared.webhooks.outbox import WebhookEvent, emit

EVENT_OF = {
    JobState.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobState.FAILED: EventType.JOB_FAILED,
    JobState.CANCELLED: EventType.JOB_CANCELLED,
    JobState.QUARANTINED: EventType.JOB_QUARANTINED,
}
Rows = Sequence[sa.Row[*tuple[Any, ...]]]
NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_until": None, "worker": None}
#: Jobs that one statement ends when a whole batch is cancelled: it stays far below the statement timeout.
CHUNK = 5_000


def submit(session: Session, jobs: Sequence[NewJob]) -> None:
    """Queue jobs by one statement. The caller commits, and rings after that."""
    insert_rows(session, job_rows(jobs))


def claim(
    session: Session,
    *,
    worker: str,
    max_images: int,
    lease: timedelta,
    ageing: timedelta,
    stat_only: bool = False,
    by_turns: bool = False,
    allow_isolated: bool = True,
    without: Collection[str] = (),
) -> list[Claim]:
    """Take the next jobs, at least one if there is one, and otherwise up to `max_images` images' worth.

    An isolated job (its last batch died) comes by itself; when its turn has come and `allow_isolated` is false, nothing
    is claimed, so that it is not overtaken for ever. Stat jobs come without others, which would make them slower. A
    bulk job that waited for `ageing` counts as routine. `by_turns`, tenants have their next jobs whatever the class,
    and no stat is taken. Tenants `without` a turn are passed over.
    """
    candidates = lock_next(session, max_images, ageing, stat_only=stat_only, by_turns=by_turns, without=without)
    if candidates and candidates[0].isolated and not allow_isolated:
        return []
    chosen = fill(candidates, max_images)
    if not chosen:
        return []
    values = {"ids": chosen, "worker": worker, "lease": lease}
    claimed = {row.id: row for row in session.execute(CLAIM, values).all()}
    return claims_of(session, [claimed[job_id] for job_id in chosen])


def heartbeat(session: Session, claims: Collection[Claim], lease: timedelta) -> set[str]:
    """Extend the leases; the ids of the jobs that are still leased.

    A row whose end is being written is locked, and passed over: nobody else can take it meanwhile, and the others'
    leases must not wait for it.
    """
    _update(session, _lock(session, _leased(claims), wait=False), lease_until=sa.func.now() + lease)
    return leased(session, claims)


def leased(session: Session, claims: Collection[Claim]) -> set[str]:
    """Return the ids of those jobs that are still leased: not cancelled, and nobody else's."""
    return set(session.scalars(sa.select(Job.id).where(_leased(claims))))


def release(session: Session, claims: Collection[Claim]) -> None:
    """Give back what was not run: the worker stops. No attempt is counted."""
    _update(session, _lock(session, _leased(claims)), state=JobState.QUEUED, **NO_LEASE)


def _leased(claims: Collection[Claim]) -> sa.ColumnElement[bool]:
    tokens = [claim.token for claim in claims]
    return sa.and_(
        Job.id.in_([claim.job_id for claim in claims]), Job.lease_token.in_(tokens), Job.state == JobState.RUNNING
    )


def finish(session: Session, outcomes: Sequence[Outcome], policy: RetryPolicy) -> list[str]:
    """Write how a batch ended, row by row; the ids of the jobs whose lease was lost, which are left as they are."""
    limits = {"max_attempts": policy.max_attempts, "base_seconds": policy.base_seconds}
    rows = session.execute(FINISH, {"ends": [_end_of(outcome) for outcome in outcomes], **limits}).all()
    ended = {row.id for row in rows if row.state != JobState.QUEUED}
    results.keep(session, [(o.claim, o.answer) for o in outcomes if o.answer is not None and o.claim.job_id in ended])
    _settle(session, [row for row in rows if row.id in ended])
    written = {row.id for row in rows}
    return [outcome.claim.job_id for outcome in outcomes if outcome.claim.job_id not in written]


def _end_of(outcome: Outcome) -> dict[str, Any]:
    error = None if outcome.answer is not None else outcome.error or ThoraqError()
    return {
        "id": outcome.claim.job_id,
        "token": outcome.claim.token,
        "error": error and problem_of(error),
        "transient": outcome.answer is None and outcome.error is not None and not outcome.error.permanent,
    }


def cancel(session: Session, tenant_id: str, job_id: str) -> Job:
    """Withdraw a queued or running job. A worker that runs it loses its lease, and with it its result.

    Cancelling a cancelled job changes nothing; NotFound for another tenant's; Conflict for other terminal ones.
    """
    mine = sa.and_(Job.id == job_id, Job.tenant_id == tenant_id)
    _end(session, _lock(session, mine, Job.state.notin_(TERMINAL)), JobState.CANCELLED)
    job = existing(session.scalar(sa.select(Job).where(mine).execution_options(populate_existing=True)), "job")
    if job.state is not JobState.CANCELLED:
        raise Conflict(f"the job has already {job.state.value}", state=job.state.value)
    return job


def cancel_batch(session: Session, tenant_id: str, batch_id: str) -> None:
    """Withdraw every queued or running job of a batch; whoever still takes its items in finds `cancelled_at` set.

    Cancelling a cancelled batch again withdraws what came in meanwhile; NotFound for another tenant's; Conflict for a
    complete one.
    """
    mine = sa.and_(Batch.id == batch_id, Batch.tenant_id == tenant_id)
    existing(session.scalar(sa.select(Batch.id).where(mine)), "batch")
    live = _lock(session, Job.batch_id == batch_id, Job.state.notin_(TERMINAL))
    cancelled_at = sa.func.coalesce(Batch.cancelled_at, sa.func.now())
    withdrawn = session.execute(
        sa.update(Batch)
        .where(mine, sa.or_(Batch.completed_at.is_(None), Batch.cancelled_at.is_not(None)))
        .values(cancelled_at=cancelled_at)
        .returning(Batch.id)
        .execution_options(synchronize_session=False)
    ).first()
    if withdrawn is None:
        raise Conflict("the batch is complete")
    for start in range(0, len(live), CHUNK):
        _end(session, live[start : start + CHUNK], JobState.CANCELLED)
    complete_batches(session, [batch_id])


def withdraw(session: Session, study_ids: Collection[str]) -> list[str]:
    """For the deletion of studies: end what is live of their jobs; the ids of all of them, which are locked."""
    theirs = Job.study_id.in_(study_ids)
    live = _lock(session, theirs, Job.state.notin_(TERMINAL))
    _end(session, live, JobState.CANCELLED)
    return list(_lock(session, theirs))


def close_batch(session: Session, batch_id: str) -> None:
    """Note that the whole batch is in: it is complete once nothing of it is left to do, which may be now."""
    # Of a batch that was given up: files whose study never came to be.
    session.execute(sa.delete(BatchFile).where(BatchFile.batch_id == batch_id))
    session.execute(
        sa.update(Batch)
        .where(Batch.id == batch_id, Batch.received_at.is_(None))
        .values(received_at=sa.func.now())
        .execution_options(synchronize_session=False)
    )
    complete_batches(session, [batch_id])


def expire(session: Session, limit: int) -> list[str]:
    """Fail queued jobs whose time is over, at most so many, for the sweeper; return their ids."""
    late = _lock_overdue(session, JobState.QUEUED, Job.expires_at, limit)
    ended = _end(session, late, JobState.FAILED, problem_of(Expired()))
    for batch_id, count in sorted(Counter(row.batch_id for row in ended if row.batch_id is not None).items()):
        session.execute(
            sa.update(Batch)
            .where(Batch.id == batch_id)
            .values(expired=Batch.expired + count)
            .execution_options(synchronize_session=False)
        )
    return [row.id for row in ended]


def close_stalled(session: Session, quiet: timedelta) -> str | None:
    """Cancel and close a batch whose client went away, for the sweeper; return its id, None without one.

    One in a transaction: those of several batches would not be locked in the order that all others keep.
    """
    silent = sa.and_(Batch.received_at.is_(None), Batch.progress_at < sa.func.now() - quiet)
    stalled = session.scalar(sa.select(Batch).where(silent).limit(1))
    if stalled is None:
        return None
    cancel_batch(session, stalled.tenant_id, stalled.id)
    close_batch(session, stalled.id)
    return stalled.id


def rescue(session: Session, max_crashes: int, limit: int = 500) -> tuple[list[str], list[str]]:
    """Put jobs back whose worker is gone, for the sweeper. Return (put back to run in isolation, quarantined).

    A job that was isolated when its worker died has a crash counted; `max_crashes` of them quarantine it.
    """
    hopeless = sa.and_(Job.isolated, Job.crash_attempts + 1 >= max_crashes)
    error = problem_of(WorkerCrashed(f"{max_crashes} workers died of it"))
    rows = _update(
        session,
        _lock_overdue(session, JobState.RUNNING, Job.lease_until, limit),
        state=sa.case((hopeless, JobState.QUARANTINED), else_=JobState.QUEUED),
        finished_at=sa.case((hopeless, sa.func.now())),
        error=sa.case((hopeless, sa.cast(error, Job.error.type))),
        crash_attempts=Job.crash_attempts + sa.cast(Job.isolated, sa.Integer),
        isolated=True,
        rank=Priority.STAT.rank,  # next: it has waited its turn once, and for a lease
        # Once isolated and not done, behind the others that are: those that did nothing are done before it is tried
        # again, and workers that are killed for another reason are not killed over the same job each time.
        queued_at=sa.case((Job.isolated, sa.func.now()), else_=Job.queued_at),
        **NO_LEASE,
    )
    quarantined = [row for row in rows if row.state is JobState.QUARANTINED]
    _settle(session, quarantined)
    return [row.id for row in rows if row.state is JobState.QUEUED], [row.id for row in quarantined]


def _lock(session: Session, *which: sa.ColumnElement[bool], wait: bool = True) -> Sequence[str]:
    rows = sa.select(Job.id).where(*which).order_by(Job.id).with_for_update(skip_locked=not wait)
    return session.scalars(rows).all()


def _lock_overdue(
    session: Session, state: JobState, due: InstrumentedAttribute[datetime | None], limit: int
) -> Sequence[str]:
    """Those whose time has passed, the earliest first. What others hold is passed over, so no order is to be kept."""
    overdue = sa.select(Job.id).where(Job.state == state, due < sa.func.now()).order_by(due)
    return session.scalars(overdue.limit(limit).with_for_update(skip_locked=True)).all()


def _update(session: Session, ids: Sequence[str], **values: Any) -> Rows:
    if not ids:
        return []
    chosen = Job.id == sa.any_(sa.literal(list(ids), sa.ARRAY(sa.Text)))
    moved = sa.update(Job).where(chosen).values(**values).returning(Job.id, Job.tenant_id, Job.batch_id, Job.state)
    return session.execute(moved, execution_options={"synchronize_session": False}).all()


def _end(session: Session, ids: Sequence[str], state: JobState, error: dict[str, Any] | None = None) -> Rows:
    ended = _update(session, ids, state=state, error=error, finished_at=sa.func.now(), **NO_LEASE)
    _settle(session, ended)
    return ended


def _settle(session: Session, ended: Rows) -> None:
    """Do what the end of jobs brings with it."""
    announce(session, [row.id for row in ended])
    emit(session, [WebhookEvent(row.tenant_id, EVENT_OF[row.state], job_id=row.id) for row in ended])
    complete_batches(session, {row.batch_id for row in ended if row.batch_id is not None})


def complete_batches(session: Session, batch_ids: Collection[str]) -> None:
    """Complete those of which all is in and nothing is left to do; the others stay as they are."""
    if not batch_ids:
        return
    completed = session.execute(
        sa.update(Batch)
        .where(
            Batch.id.in_(batch_ids),
            Batch.completed_at.is_(None),
            Batch.received_at.is_not(None),
            Batch.queued + Batch.running == 0,
        )
        .values(completed_at=sa.func.now())
        .returning(Batch.id, Batch.tenant_id)
        .execution_options(synchronize_session=False)
    ).all()
    announce(session, [batch.id for batch in completed])
    emit(session, [WebhookEvent(batch.tenant_id, EventType.BATCH_COMPLETED, batch_id=batch.id) for batch in completed])
