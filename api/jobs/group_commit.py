"""Jobs with their studies, written for several requests at once: those that come together share a transaction.

A request is answered when its rows are on the disk, and most of what that takes is the same for one as for many. So who
comes while a transaction is under way waits for its end, and the next transaction is for all who wait (group commit:
DeWitt et al. 1984, "Implementation techniques for main memory database systems").
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from flask import current_app

from api.http import audit, idempotency
from api.http.idempotency import KeyUse
from shared.db.bulk_insert import insertion
from shared.db.engine import TenantDatabase
from shared.errors import IdempotencyKeyReused, Unavailable
from shared.jobs.new_jobs import NewJob, job_rows
from shared.studies.rows import NewStudy, study_rows

EXTENSION = "thoraq-submissions"
#: Most requests in one transaction.
MOST = 64
#: So long it waits for those whose files are being stored (PostgreSQL has the like: commit_delay, commit_siblings).
GATHER_SECONDS = 0.001
#: The column of each table that says whose submission a row is of: its study's or its job's id.
BELONGS = {"studies": "id", "images": "study_id", "jobs": "id", "audit_log": "subject"}


@dataclass(frozen=True)
class Submission:
    """A job and its new study, for the key (of our API) that asks; `key_use` if it came with an Idempotency-Key."""

    key_id: str
    study: NewStudy
    job: NewJob
    key_use: KeyUse | None


@dataclass(frozen=True)
class Written:
    """When the job was queued; or `first`, the job that the same request has made before."""

    queued_at: datetime
    first: str | None = None


@dataclass(frozen=True)
class _Waiting:
    submission: Submission
    outcome: Future[Written] = field(default_factory=Future)


class Submissions:
    """The process's way to write them. Safe to share between threads."""

    def __init__(self, database: TenantDatabase) -> None:
        self._database = database
        self._waiting: deque[_Waiting] = deque()
        self._turn = threading.Lock()
        self._coming = 0
        self._change = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many wait for the next transaction."""
        return len(self._waiting)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While a request makes its submission ready: a transaction that is about to begin waits a moment for it."""
        with self._change:
            self._coming += 1
        try:
            yield
        finally:
            with self._change:
                self._coming -= 1
                if not self._coming:
                    self._change.notify_all()

    def write(self, submission: Submission) -> Written:
        """Return when it is committed. IdempotencyKeyReused; Unavailable when nobody knows whether it is."""
        mine = _Waiting(submission)
        self._waiting.append(mine)
        while not mine.outcome.done():
            with self._turn:
                # Whoever had the turn before may have written this one, too.
                if not mine.outcome.done():
                    self._gather()
                    self._settle(self._next())
        return mine.outcome.result()

    def _gather(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._coming, GATHER_SECONDS)

    def _next(self) -> list[_Waiting]:
        """Those of one tenant, the one of whoever waits longest; a transaction sees and writes one tenant's rows."""
        found = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
        tenant_id = found[0].submission.job.tenant_id
        others = [one for one in found if one.submission.job.tenant_id != tenant_id]
        self._waiting.extendleft(reversed(others))
        return [one for one in found if one.submission.job.tenant_id == tenant_id]

    def _settle(self, group: Sequence[_Waiting]) -> None:
        try:
            with self._database.of(group[0].submission.job.tenant_id).single() as connection:
                outcomes = _write(connection, [one.submission for one in group])
        except BaseException as error:  # noqa: BLE001 - every one of their requests raises it
            if len(group) == 1 or isinstance(error, Unavailable):
                for one in group:
                    one.outcome.set_exception(error)
            else:
                # One of them cannot be written; that is no fault of the others.
                for one in group:
                    self._settle([one])
        else:
            for one, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, IdempotencyKeyReused):
                    one.outcome.set_exception(outcome)
                else:
                    one.outcome.set_result(outcome)


def _write(connection: sa.Connection, group: Sequence[Submission]) -> list[Written | IdempotencyKeyReused]:
    """One statement, which is a transaction of its own, however many they are."""
    uses = [one.key_use for one in group if one.key_use is not None]
    tables = [
        *study_rows([one.study for one in group]),
        job_rows([one.job for one in group]),
        audit.rows(group[0].job.tenant_id, [(one.key_id, "job.submit", one.job.id) for one in group]),
    ]
    columns = tuple((table.__tablename__, tuple(rows[0])) for table, rows in tables)
    values: dict[str, Any] = {table.__tablename__: rows for table, rows in tables}
    studies = {one.job.id: one.study.id for one in group}
    values["uses"] = [vars(use) | {"study_id": studies[use.resource_id]} for use in uses]
    row = connection.execute(_statement(columns), values | {"tenant_id": group[0].job.tenant_id}).one()
    firsts = idempotency.firsts(connection, group[0].job.tenant_id, uses) if row.replayed else {}
    return [_outcome(one, row.at, row.replayed, firsts) for one in group]


def _outcome(
    one: Submission, at: datetime, replayed: Collection[str], firsts: Mapping[str, str | IdempotencyKeyReused]
) -> Written | IdempotencyKeyReused:
    if one.key_use is None or one.job.id not in replayed:
        return Written(at)
    first = firsts[one.job.id]
    return first if isinstance(first, IdempotencyKeyReused) else Written(at, first)


@lru_cache
def _statement(columns: tuple[tuple[str, tuple[str, ...]], ...]) -> sa.Select[Any]:
    """Remembers the Idempotency-Keys, and inserts the rows of all but those that a key has brought in before."""
    asked, made = idempotency.remembering("study_id")
    again = asked.c.resource_id.not_in(sa.select(made.c.resource_id))
    replayed = sa.select(asked.c.resource_id).where(again)
    ids = replayed.union_all(sa.select(asked.c.study_id).where(again)).cte("replayed")
    inserts = [insertion(name, names, (BELONGS[name], sa.select(ids.c[0]))) for name, names in columns]
    found = sa.select(sa.func.now().label("at"), sa.func.array(replayed.scalar_subquery()).label("replayed"))
    return found.add_cte(*(insert.cte(f"into_{insert.table.name}") for insert in inserts))


def submissions() -> Submissions:
    """Return the current application's group commit."""
    return cast(Submissions, current_app.extensions[EXTENSION])
