"""Jobs with their studies, written for several requests at once: those that come together share a transaction.

A request is answered when its rows are on the disk, and most of what that takes is the same for one as for many. So who
comes while a transaction is under way waits for its end, and the next transaction is for all who wait (group commit:
DeWitt et al. 1984, "Implementation techniques for main memory database systems").
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from api import audit, idempotency
from api.idempotency import KeyUse
from shared.db import Database
from shared.errors import IdempotencyKeyReused, Unavailable
from shared.jobs import NewJob, job_rows
from shared.rows import insert_rows
from shared.studies import NewStudy, study_rows

#: Most requests in one transaction.
MOST = 64


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

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Waiting] = deque()
        self._turn = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many wait for the next transaction."""
        return len(self._waiting)

    def write(self, submission: Submission) -> Written:
        """Returns when it is committed. IdempotencyKeyReused; Unavailable when nobody knows whether it is."""
        mine = _Waiting(submission)
        self._waiting.append(mine)
        while not mine.outcome.done():
            with self._turn:
                # Whoever had the turn before may have written this one, too.
                if not mine.outcome.done():
                    self._settle(self._next())
        return mine.outcome.result()

    def _next(self) -> list[_Waiting]:
        """Those of one tenant, the one of whoever waits longest; a transaction sees and writes one tenant's rows."""
        found = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
        tenant_id = found[0].submission.job.tenant_id
        others = [one for one in found if one.submission.job.tenant_id != tenant_id]
        self._waiting.extendleft(reversed(others))
        return [one for one in found if one.submission.job.tenant_id == tenant_id]

    def _settle(self, group: Sequence[_Waiting]) -> None:
        try:
            with self._database.transaction() as session:
                outcomes = _write(session, [one.submission for one in group])
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


def _write(session: Session, group: Sequence[Submission]) -> list[Written | IdempotencyKeyReused]:
    """A handful of statements, however many they are."""
    tenant_id = group[0].job.tenant_id
    uses = [one.key_use for one in group if one.key_use is not None]
    firsts = iter(idempotency.remember_all(session, tenant_id, uses))
    found = [None if one.key_use is None else next(firsts) for one in group]
    fresh = [one for one, first in zip(group, found, strict=True) if first is None]
    insert_rows(session, *study_rows([one.study for one in fresh]), job_rows([one.job for one in fresh]))
    acts = [(one.key_id, "job.submit", one.job.id) for one in fresh]
    queued_at = audit.record_all(session, tenant_id, acts)
    return [first if isinstance(first, IdempotencyKeyReused) else Written(queued_at, first) for first in found]
