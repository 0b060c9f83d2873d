"""Who goes first: stat before routine before bulk, tenants in turn, the oldest first; and how long it takes.

A tenant has a share of stat (`Tenant.stat_share`): what comes beyond is queued as routine, by a trigger. As the share
is filled again while it is worked off, workers make some claims by turns alone: each tenant's next job, whatever its
class, and no stat.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db.tables import Job, JobState, Priority

#: So many jobs that ended lately make the estimate of waiting times.
RECENT_JOBS = 200
#: As far as this each tenant's line is counted for a place in it.
COUNTED = 5_000

# However many wait, only the heads of the lines are read: for each tenant and rank by ix_jobs_queued, and of those that
# waited for a later time by ix_jobs_delayed. What is too late is passed over in the heads alone, until the sweeper
# fails it. Tenants draw lots within a turn: by age, a few tenants with old backlogs would keep all others out.
NEXT = sa.text("""
    WITH heads AS (
        SELECT j.* FROM tenants t CROSS JOIN LATERAL generate_series(:first, :last) ranks(rank) CROSS JOIN LATERAL (
            SELECT id, tenant_id, rank, queued_at, expires_at FROM jobs
            WHERE state = 'queued' AND not_before IS NULL AND tenant_id = t.id AND rank = ranks.rank
            ORDER BY queued_at, id LIMIT :heads
        ) j WHERE t.id <> ALL (:without)
        UNION ALL (
            SELECT id, tenant_id, rank, queued_at, expires_at FROM jobs
            WHERE state = 'queued' AND not_before <= now() AND rank BETWEEN :first AND :last
                AND tenant_id <> ALL (:without)
            ORDER BY not_before LIMIT :heads
        )
    ), classes AS (
        SELECT id, tenant_id, queued_at,
            CASE WHEN rank = 2 AND queued_at < now() - CAST(:ageing AS interval) THEN 1 ELSE rank END AS class
        FROM heads WHERE expires_at IS NULL OR expires_at > now()
    ), turns AS (
        SELECT id, class = 0 AS stat, CASE WHEN :by_turns THEN 0 ELSE class END AS place,
            row_number() OVER (
                PARTITION BY tenant_id, CASE WHEN :by_turns THEN 0 ELSE class END ORDER BY class, queued_at, id
            ) AS turn, random() AS lot
        FROM classes ORDER BY place, turn, lot LIMIT :heads
    )
    SELECT j.id, j.alone AS isolated, turns.stat, s.image_count
    FROM turns JOIN jobs j USING (id) JOIN studies s ON s.id = j.study_id
    WHERE j.state = 'queued' ORDER BY turns.place, turns.turn, turns.lot LIMIT :many FOR UPDATE OF j SKIP LOCKED
""").bindparams(
    # Part of the text: with limits that are not known the server could not keep its plan.
    sa.bindparam("heads", type_=sa.Integer, literal_execute=True),
    sa.bindparam("many", type_=sa.Integer, literal_execute=True),
    sa.bindparam("first", type_=sa.Integer, literal_execute=True),
    sa.bindparam("last", type_=sa.Integer, literal_execute=True),
    sa.bindparam("by_turns", type_=sa.Boolean, literal_execute=True),
    sa.bindparam("without", type_=sa.ARRAY(sa.Text)),
)


class Candidate(NamedTuple):
    """A queued job whose row is locked."""

    id: str
    isolated: bool
    stat: bool
    image_count: int


def lock_next(
    session: Session,
    many: int,
    ageing: timedelta,
    *,
    stat_only: bool = False,
    by_turns: bool = False,
    without: Collection[str] = (),
) -> Sequence[Candidate]:
    """Up to so many jobs that may be claimed, best first, locked for the caller's transaction.

    A bulk job that has waited for longer than `ageing` is served as a routine one, so that nothing starves. `by_turns`
    takes each tenant's next job, whatever its class, and no stat. Tenants `without` a turn are passed over.
    """
    # More heads than are wanted, so that workers that look together find something behind each other's locks.
    last = (Priority.STAT if stat_only else Priority.BULK).rank
    first = (Priority.ROUTINE if by_turns else Priority.STAT).rank
    ranks = {"first": first, "last": last, "by_turns": by_turns}
    asked = {"many": many, "heads": 4 * many, "ageing": ageing, "without": list(without)}
    found = session.execute(NEXT, asked | ranks)
    return [Candidate(*row) for row in found.all()]


def fill(candidates: Sequence[Candidate], max_images: int) -> list[str]:
    """Choose so many images' worth of candidates at most, or one job; an isolated one by itself, and stat apart."""
    if candidates and candidates[0].isolated:
        return [candidates[0].id]
    chosen: list[str] = []
    images = 0
    for candidate in candidates:
        if (
            candidate.isolated
            or candidate.stat != candidates[0].stat
            or (chosen and images + candidate.image_count > max_images)
        ):
            continue
        chosen.append(candidate.id)
        images += candidate.image_count
    return chosen


def waiting(session: Session) -> bool:
    """Whether some job could be claimed now."""
    queued = sa.exists().where(Job.state == JobState.QUEUED, Job.not_before.is_(None))
    due = sa.exists().where(Job.state == JobState.QUEUED, Job.not_before <= sa.func.now())
    return session.scalar(sa.select(sa.or_(queued, due))) or False


# In its own line the job has every earlier one ahead of it; in another tenant's line, as many as the turns before its
# own; and of higher ranks all. What ran lately was measured: jobs by the time in which any of them ran. The views
# `queue` and `queue_tenants` show everybody's lines to the API, which sees nothing else of other tenants.
PLACE = sa.text("""
    WITH own AS (
        SELECT count(*) AS ahead FROM (
            SELECT FROM jobs WHERE state = 'queued' AND not_before IS NULL AND tenant_id = :tenant_id AND rank = :rank
            AND (queued_at, id) < (:queued_at, :id) LIMIT :counted
        ) earlier
    ), others AS (
        SELECT coalesce(sum(line.length), 0) AS ahead
        FROM own, queue_tenants t, LATERAL (VALUES (0), (1), (2)) ranks(rank), LATERAL (
            SELECT count(*) AS length FROM (
                SELECT FROM queue WHERE state = 'queued' AND not_before IS NULL AND tenant_id = t.id
                AND rank = ranks.rank LIMIT CASE WHEN ranks.rank < :rank THEN :counted ELSE own.ahead END
            ) head
        ) line WHERE ranks.rank < :rank OR ranks.rank = :rank AND t.id <> :tenant_id
    ), lately AS (
        SELECT started_at, finished_at FROM queue
        WHERE finished_at > now() - interval '5 minutes' AND started_at IS NOT NULL
        ORDER BY finished_at DESC LIMIT :recent
    ), pace AS (
        SELECT extract(epoch FROM sum(upper(busy) - lower(busy))) / (SELECT count(*) FROM lately) AS seconds
        FROM (SELECT unnest(range_agg(tstzrange(started_at, finished_at))) AS busy FROM lately) runs
    )
    SELECT CAST(own.ahead + others.ahead AS int) AS ahead, CAST(pace.seconds AS float) AS seconds_each,
        CAST((SELECT count(*) FROM queue WHERE state = 'running') AS int) AS running
    FROM own, others, pace
""")


class InLine(NamedTuple):
    """Where a queued job stands: the columns that say so."""

    tenant_id: str
    rank: int
    queued_at: datetime
    id: str


def place_in_line(session: Session | sa.Connection, job: Job | InLine) -> tuple[int, float | None]:
    """How many jobs go first, and how many seconds that takes at the pace of the last minutes (None: unknown).

    A line is counted as far as COUNTED: where more than that go first, both are the least that they can be.
    """
    mine = {"tenant_id": job.tenant_id, "rank": job.rank, "queued_at": job.queued_at, "id": job.id}
    row = session.execute(PLACE, {**mine, "counted": COUNTED, "recent": RECENT_JOBS}).one()
    pace = row.seconds_each or None
    return row.ahead, pace and (row.ahead + row.running + 1) * pace
