"""The only writer of job states.

    queued -> running -> succeeded | failed | cancelled | quarantined
    queued -> cancelled
    running -> queued       transient error (with `not_before`), release, expired lease

The database is the truth: a worker may do what a claim here allows, for as long as its lease lasts, by the
database's clock. Every write of a worker is guarded by its lease token (a fencing token), so a worker that was
thought dead cannot overwrite the one that took over. A trigger (migration 0002) holds the same rules.

Every function takes the caller's transaction; what a terminal state brings with it (result, events, the batch's
completion) happens in that same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from shared.envelope import batch_event, job_event
from shared.errors import Conflict, NotFound, ThoraqError, WorkerCrashed
from shared.models import (
    TERMINAL,
    Artifact,
    ArtifactKind,
    Batch,
    Classifier,
    EventType,
    Image,
    Job,
    JobState,
    Modality,
    Priority,
    Result,
    ResultOutcome,
    Study,
)
from shared.schedule import next_in_line
from shared.webhooks import emit

EVENT_OF = {
    JobState.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobState.FAILED: EventType.JOB_FAILED,
    JobState.CANCELLED: EventType.JOB_CANCELLED,
    JobState.QUARANTINED: EventType.JOB_QUARANTINED,
}
NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_until": None, "worker": None}


@dataclass(frozen=True)
class ImageRef:
    """What a worker needs to load one image."""

    id: str
    file: int
    frame: int
    object_key: str | None
    sha256: str
    problem: dict[str, Any] | None


@dataclass(frozen=True)
class Claim:
    """A job that this worker may run until its lease ends; `token` proves it."""

    job_id: str
    token: str
    tenant_id: str
    classifier: Classifier
    modality: Modality
    waited_seconds: float
    images: tuple[ImageRef, ...]


@dataclass(frozen=True)
class Heatmap:
    """Where the network looked for the class it predicted for one image; `png` is the trunk's grid in 8-bit grey."""

    id: str
    image_id: str
    class_name: str
    png: bytes


@dataclass(frozen=True)
class Answer:
    """The result of a claim, ready to be written: its fields are the columns of `results`."""

    bundle_sha256: str
    images: list[dict[str, Any]]
    timings: dict[str, float]
    outcome: ResultOutcome = ResultOutcome.ANSWERED
    reason: str | None = None
    detail: str | None = None
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    corrected_modality: Modality | None = None
    review_reasons: list[str] = field(default_factory=list)
    second_opinion: dict[str, Any] | None = None
    #: not columns: rows of `artifacts`, which the entries of `images` name
    heatmaps: list[Heatmap] = field(default_factory=list)


ANSWER_COLUMNS = tuple(column.name for column in fields(Answer) if column.name != "heatmaps")


@dataclass(frozen=True)
class Outcome:
    """How a claim ended: an answer, or an error."""

    claim: Claim
    answer: Answer | None = None
    error: ThoraqError | None = None

    @property
    def word(self) -> str:
        """What becomes of the job, for logs and metrics, if the lease still holds."""
        if self.answer is not None:
            return "succeeded" if self.answer.outcome is ResultOutcome.ANSWERED else self.answer.outcome.value
        return "failed" if self.error is None or self.error.permanent else "retried"


@dataclass(frozen=True)
class RetryPolicy:
    """When a transient error is tried again, and when it is enough."""

    max_attempts: int
    base_seconds: float


def problem_of(error: ThoraqError) -> dict[str, Any]:
    """An error as it is stored with a job or an image, and shown to clients."""
    if error.problem is not None:
        return error.problem
    return {"type": error.type, "title": error.title, "detail": error.detail}


def submit(
    session: Session,
    *,
    job_id: str,
    study: Study,
    classifier: Classifier,
    priority: Priority,
    external_id: str | None,
    metadata: dict[str, Any],
    batch_id: str | None = None,
) -> Job:
    """A queued job for a study that is stored. The caller commits, and rings after that."""
    job = Job(
        id=job_id,
        tenant_id=study.tenant_id,
        study_id=study.id,
        batch_id=batch_id,
        classifier=classifier,
        priority=priority,
        rank=priority.rank,
        external_id=external_id,
        extra=metadata,
        state=JobState.QUEUED,
    )
    session.add(job)
    return job


def claim(session: Session, *, worker: str, max_images: int, lease: timedelta) -> list[Claim]:
    """Take the next jobs, at least one if there is one, and otherwise up to `max_images` images' worth.

    A job that runs alone (its last batch died) comes alone.
    """
    candidates = next_in_line(session, max_images * 4)
    if not candidates:
        return []
    locked = session.execute(
        sa.select(Job.id, Job.alone, Study.image_count)
        .join(Study, Study.id == Job.study_id)
        .where(Job.id.in_(candidates), Job.state == JobState.QUEUED)
        .order_by(sa.func.array_position(sa.literal(list(candidates), sa.ARRAY(sa.Text)), Job.id))
        .limit(max_images)
        .with_for_update(of=Job, skip_locked=True)
    ).all()
    chosen = _fill([(row.id, row.alone, row.image_count) for row in locked], max_images)
    if not chosen:
        return []
    claimed = session.execute(
        sa.update(Job)
        .where(Job.id.in_(chosen))
        .values(
            state=JobState.RUNNING,
            lease_token=sa.cast(sa.func.gen_random_uuid(), sa.Text),
            lease_until=sa.func.now() + lease,
            worker=worker,
            started_at=sa.func.now(),
        )
        .returning(Job.id, Job.lease_token, sa.extract("epoch", sa.func.now() - Job.queued_at).label("waited"))
        .execution_options(synchronize_session=False)
    ).all()
    leases = {row.id: (row.lease_token or "", float(row.waited)) for row in claimed}
    return _claims(session, {job_id: leases[job_id] for job_id in candidates if job_id in leases})


def _fill(rows: Sequence[tuple[str, bool, int]], max_images: int) -> list[str]:
    if rows and rows[0][1]:
        return [rows[0][0]]
    chosen: list[str] = []
    images = 0
    for job_id, alone, count in rows:
        if alone or (chosen and images + count > max_images):
            continue
        chosen.append(job_id)
        images += count
    return chosen


def _claims(session: Session, leases: Mapping[str, tuple[str, float]]) -> list[Claim]:
    rows = sa.select(Job).where(Job.id.in_(leases)).options(joinedload(Job.study).selectinload(Study.images))
    jobs = {job.id: job for job in session.scalars(rows.execution_options(populate_existing=True))}
    return [
        Claim(
            job_id=job_id,
            token=token,
            tenant_id=jobs[job_id].tenant_id,
            classifier=jobs[job_id].classifier,
            modality=jobs[job_id].study.modality,
            waited_seconds=waited,
            images=tuple(_image_ref(image) for image in jobs[job_id].study.images),
        )
        for job_id, (token, waited) in leases.items()
    ]


def _image_ref(image: Image) -> ImageRef:
    return ImageRef(image.id, image.file_index, image.frame, image.object_key, image.sha256, image.problem)


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(Job.id == claim.job_id, Job.lease_token == claim.token, Job.state == JobState.RUNNING)


def heartbeat(session: Session, claims: Collection[Claim], lease: timedelta) -> set[str]:
    """Extend the leases; the ids of the jobs that are still held."""
    tokens = [claim.token for claim in claims]
    return set(
        session.scalars(
            sa.update(Job)
            .where(Job.lease_token.in_(tokens), Job.state == JobState.RUNNING)
            .values(lease_until=sa.func.now() + lease)
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
    )


def finish(session: Session, outcomes: Sequence[Outcome], policy: RetryPolicy) -> list[str]:
    """Write how a batch ended, row by row; the ids of the jobs whose lease was lost, which are left as they are."""
    lost = []
    # In the order of ids, as every other writer of several rows: no two of them wait for each other.
    for outcome in sorted(outcomes, key=lambda o: o.claim.job_id):
        if outcome.answer is not None:
            held = _succeed(session, outcome.claim, outcome.answer)
        elif outcome.error is not None and not outcome.error.permanent:
            held = _retry(session, outcome.claim, outcome.error, policy)
        else:
            held = _fail(session, outcome.claim, outcome.error or ThoraqError())
        if not held:
            lost.append(outcome.claim.job_id)
    _keep_heatmaps(session, [outcome for outcome in outcomes if outcome.claim.job_id not in lost])
    _complete_batches(session, [outcome.claim.job_id for outcome in outcomes])
    return lost


def _succeed(session: Session, claim: Claim, answer: Answer) -> bool:
    if not _end(session, _held(claim), JobState.SUCCEEDED):
        return False
    columns = {column: getattr(answer, column) for column in ANSWER_COLUMNS}
    session.add(Result(job_id=claim.job_id, tenant_id=claim.tenant_id, **columns))
    session.flush()
    _tell(session, claim.job_id, JobState.SUCCEEDED)
    return True


def _keep_heatmaps(session: Session, outcomes: Sequence[Outcome]) -> None:
    rows = [
        {
            "id": heatmap.id,
            "tenant_id": outcome.claim.tenant_id,
            "job_id": outcome.claim.job_id,
            "image_id": heatmap.image_id,
            "kind": ArtifactKind.HEATMAP,
            "class_name": heatmap.class_name,
            "content": heatmap.png,
            "media_type": "image/png",
        }
        for outcome in outcomes
        if outcome.answer is not None
        for heatmap in outcome.answer.heatmaps
    ]
    if rows:
        session.execute(sa.insert(Artifact), rows)


def _fail(session: Session, claim: Claim, error: ThoraqError) -> bool:
    if not _end(session, _held(claim), JobState.FAILED, error=problem_of(error)):
        return False
    _tell(session, claim.job_id, JobState.FAILED)
    return True


def _retry(session: Session, claim: Claim, error: ThoraqError, policy: RetryPolicy) -> bool:
    delay = policy.base_seconds * sa.func.power(2, Job.error_attempts) * (0.8 + 0.4 * sa.func.random())
    requeued = session.execute(
        sa.update(Job)
        .where(_held(claim), Job.error_attempts + 1 < policy.max_attempts)
        .values(
            state=JobState.QUEUED,
            error_attempts=Job.error_attempts + 1,
            not_before=sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, delay),
            **NO_LEASE,
        )
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).first()
    return requeued is not None or _fail(session, claim, error)


def release(session: Session, claims: Collection[Claim]) -> None:
    """Give back what was not run: the worker stops. No attempt is counted."""
    session.execute(
        sa.update(Job)
        .where(Job.lease_token.in_([claim.token for claim in claims]), Job.state == JobState.RUNNING)
        .values(state=JobState.QUEUED, **NO_LEASE)
        .execution_options(synchronize_session=False)
    )


def cancel(session: Session, tenant_id: str, job_id: str) -> Job:
    """Withdraw a queued or running job. A worker that runs it loses its lease, and with it its result.

    Cancelling a cancelled job changes nothing; NotFound for another tenant's; Conflict for other terminal ones.
    """
    mine = sa.and_(Job.id == job_id, Job.tenant_id == tenant_id)
    if _end(session, sa.and_(mine, Job.state.notin_(TERMINAL)), JobState.CANCELLED):
        _tell(session, job_id, JobState.CANCELLED)
        _complete_batches(session, [job_id])
    job = session.scalar(sa.select(Job).where(mine).execution_options(populate_existing=True))
    if job is None:
        raise NotFound("no such job")
    if job.state is not JobState.CANCELLED:
        raise Conflict(f"the job has already {job.state.value}", state=job.state.value)
    return job


def _end(session: Session, which: sa.ColumnElement[bool], state: JobState, **values: object) -> bool:
    ended = session.execute(
        sa.update(Job)
        .where(which)
        .values(state=state, finished_at=sa.func.now(), **NO_LEASE, **values)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return ended.first() is not None


def _tell(session: Session, job_id: str, state: JobState) -> None:
    job = session.get_one(Job, job_id, populate_existing=True)
    emit(session, job.tenant_id, EVENT_OF[state], partial(job_event, session, job), job_id=job_id)


def _complete_batches(session: Session, job_ids: Collection[str]) -> None:
    completed = session.scalars(
        sa.update(Batch)
        .where(
            Batch.id.in_(sa.select(Job.batch_id).where(Job.id.in_(job_ids), Job.batch_id.is_not(None))),
            Batch.completed_at.is_(None),
            Batch.queued + Batch.running == 0,
        )
        .values(completed_at=sa.func.now())
        .returning(Batch)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).all()
    for batch in completed:
        emit(
            session,
            batch.tenant_id,
            EventType.BATCH_COMPLETED,
            partial(batch_event, session, batch),
            batch_id=batch.id,
        )


def rescue(session: Session, max_crashes: int, limit: int = 500) -> tuple[list[str], list[str]]:
    """The sweeper's part: jobs whose worker is gone. Returns (put back to run alone, quarantined).

    A job that was alone when its worker died has a crash counted; `max_crashes` of them quarantine it.
    """
    expired = sa.select(Job.id).where(Job.state == JobState.RUNNING, Job.lease_until < sa.func.now()).order_by(Job.id)
    ids = session.scalars(expired.limit(limit).with_for_update(skip_locked=True)).all()
    if not ids:
        return [], []
    error = problem_of(WorkerCrashed(f"{max_crashes} workers died of it"))
    hopeless = sa.and_(Job.id.in_(ids), Job.alone, Job.crash_attempts + 1 >= max_crashes)
    quarantined = session.scalars(
        sa.update(Job)
        .where(hopeless)
        .values(
            state=JobState.QUARANTINED,
            crash_attempts=Job.crash_attempts + 1,
            finished_at=sa.func.now(),
            error=error,
            **NO_LEASE,
        )
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).all()
    requeued = session.scalars(
        sa.update(Job)
        .where(Job.id.in_(ids), Job.state == JobState.RUNNING)
        .values(
            state=JobState.QUEUED,
            crash_attempts=Job.crash_attempts + sa.cast(Job.alone, sa.Integer),
            alone=True,
            rank=Priority.STAT.rank,  # next: it has waited its turn once, and for a lease
            **NO_LEASE,
        )
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).all()
    for job_id in quarantined:
        _tell(session, job_id, JobState.QUARANTINED)
    _complete_batches(session, quarantined)
    return list(requeued), list(quarantined)
