"""Whether more may come in: refused while there is still room to say so, with a time to come back.

Looking costs a submission nothing: free disk space is a system call, and how many jobs wait is known from a look at
the database every second or so, with what this process let in since. The bounds are soft by what all processes let in
within that second.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa
import structlog

from shared import metrics
from shared.config import Settings
from shared.db.engine import Database
from shared.errors import DiskFull, Overloaded, QueueFull, ThoraqError, Unavailable

log = structlog.get_logger(__name__)
# A function of the database's own (migration 0008): it counts for all tenants, whoever asks.
WAITING = sa.text("SELECT tenant_id, jobs FROM queue_lengths()")
#: A look at the database is repeated when it is so old, or so many times as old as it took: a twentieth of one core.
#: It takes 10 ms for 10,000 jobs and half a second for 200,000.
LOOK_SECONDS, LOOK_TIMES = 1.0, 20
#: What is older than this, and twice as old as it should be, is not gone by: whoever asks next waits for a new look.
#: After a look that failed, sooner.
STALE_SECONDS, FAILED_SECONDS = 5.0, 0.25
#: Somebody waits for a stat study: where others are refused, there is this much room left for it.
STAT_SHARE = 1.1


class Admission:
    """The door of one process; for several threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        # Where the parser of requests spools, and where objects are.
        self._folders = [Path(tempfile.gettempdir())]
        if settings.storage == "folder":
            self._folders.append(settings.storage_dir.absolute())
        self._looking, self._counting = threading.Lock(), threading.Lock()
        self._behind = ThreadPoolExecutor(1, "admission")
        self._next: Future[None] | None = None
        self._waiting: Counter[str] = Counter()
        self._failure: Unavailable | None = None
        self._looked_at, self._took = float("-inf"), 0.0

    def check_capacity(self, coming: int = 0) -> None:
        """DiskFull unless so many bytes more leave the disks their reserve, Unavailable while the database is away."""
        try:
            self._check_disks(coming)
            self._refresh()
        except ThoraqError as error:
            self._refuse(error)

    def admit(self, tenant_id: str, jobs: int = 1, *, stat: bool = False) -> None:
        """Count so many jobs in; QueueFull when the tenant has too many that wait, Overloaded when all together do.

        A tenant without a job that waits may always send some, however many they are.
        """
        try:
            self._refresh()
            self._count_in(tenant_id, jobs, STAT_SHARE if stat else 1)
        except ThoraqError as error:
            self._refuse(error)

    def problems(self) -> dict[str, str]:
        """Why it would refuse everybody, for /readyz: the detail, or "ok", of the disks and of the queue."""
        return {"disk": _said(self._check_disks), "queue": _said(self._check_queue)}

    def _check_disks(self, coming: int = 0) -> None:
        for folder in self._folders:
            if _free(folder) - coming < self._settings.disk_reserve_bytes:
                raise DiskFull("a disk is nearly full; nothing was accepted")

    def _check_queue(self) -> None:
        self._refresh()
        with self._counting:
            waiting = self._waiting.total()
        if waiting >= self._settings.max_queued:
            raise Overloaded(f"{waiting} jobs wait; nothing more is accepted")

    def _count_in(self, tenant_id: str, jobs: int, share: float) -> None:
        with self._counting:
            mine, everyone = self._waiting[tenant_id], self._waiting.total()
            if mine and mine + jobs > self._settings.max_queued_per_tenant * share:
                raise QueueFull(f"{mine} of your jobs wait; nothing more was accepted")
            if everyone and everyone + jobs > self._settings.max_queued * share:
                raise Overloaded(f"{everyone} jobs wait; nothing more was accepted")
            self._waiting[tenant_id] += jobs

    @staticmethod
    def _refuse(error: ThoraqError) -> NoReturn:
        metrics.REFUSED.labels(error.type).inc()
        raise error

    def _refresh(self) -> None:
        """Go by a look at the database that is not stale, and have the next one under way when it is time.

        Raises Unavailable when the last look failed.
        """
        looked_at = self._looked_at
        age = time.monotonic() - looked_at
        due = max(LOOK_SECONDS, LOOK_TIMES * self._took)
        if age > (max(STALE_SECONDS, 2 * due) if self._failure is None else FAILED_SECONDS):
            with self._looking:
                if self._looked_at == looked_at:  # nobody else has looked meanwhile
                    self._count()
        elif age > due and (self._next is None or self._next.done()):
            self._next = self._behind.submit(self._count_alone)
        if self._failure is not None:
            raise Unavailable(self._failure.detail)

    def _count_alone(self) -> None:
        if self._looking.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._looking.release()

    def _count(self) -> None:
        began = time.monotonic()
        try:
            with self._database.single() as connection:
                waiting = Counter[str]({row.tenant_id: row.jobs for row in connection.execute(WAITING)})
        except Unavailable as error:
            log.warning("admission.blind", error=error.type)
            self._failure = error
        else:
            self._failure = None
            with self._counting:
                self._waiting = waiting
        self._looked_at = time.monotonic()
        self._took = self._looked_at - began


def _free(folder: Path) -> int:
    """Bytes that this process may still write in the folder's file system; it need not exist yet."""
    try:
        found = os.statvfs(folder)
    except FileNotFoundError:
        return _free(folder.parent)
    return found.f_bavail * found.f_frsize


def _said(check: Callable[[], None]) -> str:
    try:
        check()
    except ThoraqError as error:
        return error.detail
    return "ok"
