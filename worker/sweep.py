"""The sweeper: mends what a crash or a lost message left behind. Safe to run twice, or in two places at once."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import sqlalchemy as sa
import structlog

from shared import jobs, metrics, schedule
from shared.config import Settings
from shared.db import Database
from shared.models import Delivery, DeliveryState, IdempotencyKey, Worker
from shared.orphans import orphans
from shared.queue import CLASSIFY, DELIVER, ring
from shared.storage import Storage

log = structlog.get_logger(__name__)

ORPHANS_EVERY_SECONDS = 3600


class Sweep:
    """The role of the sweep queue."""

    bundle_sha256: str | None = None

    def __init__(self, settings: Settings, database: Database, storage: Storage) -> None:
        self.progress = time.monotonic()
        self._settings, self._database, self._storage = settings, database, storage
        self._next = self._next_orphans = 0.0

    def drain(self, stopping: threading.Event) -> None:
        """One sweep, unless there was one just now: beat's message and the look by itself may come together."""
        if time.monotonic() < self._next or stopping.is_set():
            return
        self._next = time.monotonic() + self._settings.sweep_seconds / 2
        self._rescue()
        self._expire()
        self._ring()
        if time.monotonic() >= self._next_orphans:
            # The whole store is listed for it, so it is rare.
            self._next_orphans = time.monotonic() + ORPHANS_EVERY_SECONDS
            self._remove_orphans(stopping)

    def beat(self) -> None:
        """Nothing is on lease here."""

    def _rescue(self) -> None:
        with self._database.transaction() as session:
            requeued, quarantined = jobs.rescue(session, self._settings.max_crash_attempts)
            schedule.age(session, timedelta(seconds=self._settings.ageing_seconds))
        metrics.JOBS_RESCUED.labels("requeued").inc(len(requeued))
        metrics.JOBS_RESCUED.labels("quarantined").inc(len(quarantined))
        for job_id in requeued:
            log.warning("job.rescued", job_id=job_id)
        for job_id in quarantined:
            log.error("job.quarantined", job_id=job_id)

    def _expire(self) -> None:
        remembered = timedelta(hours=self._settings.idempotency_hours)
        with self._database.transaction() as session:
            session.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.created_at < sa.func.now() - remembered))
            session.execute(sa.delete(Worker).where(Worker.seen_at < sa.func.now() - timedelta(hours=1)))

    def _remove_orphans(self, stopping: threading.Event) -> None:
        for keys in orphans(self._database, self._storage, timedelta(hours=self._settings.orphan_hours)):
            for key in keys:
                self._storage.delete(key)
                log.info("object.orphan_removed", key=key)
            self.progress = time.monotonic()
            if stopping.is_set():
                return

    def _ring(self) -> None:
        due = sa.exists().where(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= sa.func.now())
        with self._database.transaction() as session:
            to_classify, to_deliver = schedule.waiting(session), session.scalar(sa.select(due))
        if to_classify:
            ring(self._settings, CLASSIFY)
        if to_deliver:
            ring(self._settings, DELIVER)
