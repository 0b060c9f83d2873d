"""The sweeper: mends what a crash or a lost message left behind. Safe to run twice, or in two places at once."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import sqlalchemy as sa
import structlog

from shared import metrics, page_sessions
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Delivery, DeliveryState, IdempotencyKey, Worker
from shared.doorbell import CLASSIFY, DELIVER, ring
from shared.jobs import scheduling, states
from shared.storage import Storage
from shared.studies import deletion, direct_uploads, open_studies
from shared.studies.orphans import orphans
from worker.runner import Serving

log = structlog.get_logger(__name__)

ORPHANS_EVERY_SECONDS = 3600
#: Rows that one transaction moves: nobody waits long for what it locks.
AT_ONCE = 1_000
#: Studies that one transaction deletes, each with its images, jobs and results.
STUDIES_AT_ONCE = 100


class Sweep:
    """The handler of the sweep queue."""

    serving: Serving | None = None

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
        for part in (
            self._expire_jobs,
            self._close_batch,
            self._close_studies,
            self._remove_uploads,
            self._remove_deleted,
        ):
            while not stopping.is_set() and part() >= AT_ONCE:
                self.progress = time.monotonic()
        self._forget()
        self._ring()
        if time.monotonic() >= self._next_orphans:
            # The whole store is listed for it, and every old study looked at, so it is rare.
            self._next_orphans = time.monotonic() + ORPHANS_EVERY_SECONDS
            while not stopping.is_set() and self._delete_old():
                self.progress = time.monotonic()
            self._remove_orphans(stopping)

    def beat(self) -> None:
        """Nothing is on lease here."""

    def _rescue(self) -> None:
        with self._database.transaction() as session:
            requeued, quarantined = states.rescue(session, self._settings.max_crash_attempts)
        metrics.JOBS_RESCUED.labels("requeued").inc(len(requeued))
        metrics.JOBS_RESCUED.labels("quarantined").inc(len(quarantined))
        for job_id in requeued:
            log.warning("job.rescued", job_id=job_id)
        for job_id in quarantined:
            log.error("job.quarantined", job_id=job_id)

    def _expire_jobs(self) -> int:
        with self._database.transaction() as session:
            ids = states.expire(session, AT_ONCE)
        for job_id in ids:
            log.warning("job.expired", job_id=job_id)
        return len(ids)

    def _close_batch(self) -> int:
        """One that nobody sends any more: what came in of it is withdrawn."""
        with self._database.transaction() as session:
            batch_id = states.close_stalled(session, timedelta(minutes=self._settings.batch_receive_minutes))
        if batch_id is not None:
            log.warning("batch.abandoned", batch_id=batch_id)
        return 0 if batch_id is None else AT_ONCE

    def _close_studies(self) -> int:
        with self._database.transaction() as session:
            closed = open_studies.close_quiet(session, AT_ONCE)
        for study_id, job_ids in closed.items():
            log.info("study.closed", study_id=study_id, jobs=len(job_ids))
        return len(closed)

    def _remove_uploads(self) -> int:
        # The rows first: an object without a row is harmless, and is found as an orphan if this stops in between.
        with self._database.transaction() as session:
            keys = direct_uploads.sweep_unused(session, AT_ONCE)
        for key in keys:
            self._storage.delete(key)
        return len(keys)

    def _remove_deleted(self) -> int:
        """Objects of deleted studies that whoever deleted them could not remove."""
        with self._database.transaction() as session:
            left = deletion.pending_objects(session, STUDIES_AT_ONCE)
        for keys in left.values():
            for key in keys:
                self._storage.delete(key)
        if left:
            with self._database.transaction() as session:
                deletion.note_removed(session, list(left))
        return AT_ONCE if left else 0

    def _delete_old(self) -> bool:
        """Studies and batches that are older than their tenants keep them; whether there were any."""
        with self._database.transaction() as session:
            old = deletion.expired(session, STUDIES_AT_ONCE)
        for tenant_id, study_ids in old.items():
            with self._database.transaction() as session:
                gone = deletion.delete_studies(session, tenant_id, study_ids, deletion.RETENTION)
            log.info("studies.expired", tenant_id=tenant_id, study_ids=gone)
        self._remove_deleted()
        with self._database.transaction() as session:
            batches = deletion.delete_old_batches(session, AT_ONCE)
        return bool(old or batches)

    def _forget(self) -> None:
        remembered = timedelta(hours=self._settings.idempotency_hours)
        with self._database.transaction() as session:
            session.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.created_at < sa.func.now() - remembered))
            page_sessions.forget_expired(session)
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
            to_classify, to_deliver = scheduling.waiting(session), session.scalar(sa.select(due))
        if to_classify:
            ring(self._settings, CLASSIFY)
        if to_deliver:
            ring(self._settings, DELIVER)
