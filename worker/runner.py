"""What every worker process has around its work: it drains on a doorbell or a poll, and shows a sign of life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Worker
from shared.errors import ThoraqError

log = structlog.get_logger(__name__)
#: The polls for work between two checks for another bundle.
POLLS_PER_BUNDLE_CHECK = 5


class Serving(NamedTuple):
    """What a handler with a model answers with."""

    bundle_sha256: str
    engine: str
    #: Why others that were tried do not answer, with what was measured of them; empty when none was.
    engine_reason: str = ""


def report_problem(database: Database, worker: str, queue: str, problem: str) -> None:
    """Say why a worker cannot take work of a queue, where readiness is looked up; for one that is about to end."""
    _sign(database, worker, queue, None, problem)


def _sign(database: Database, worker: str, queue: str, serving: Serving | None, problem: str | None) -> None:
    said = {
        "bundle_sha256": serving and serving.bundle_sha256,
        "bundle_problem": problem,
        "engine": serving and serving.engine,
        "engine_reason": (serving and serving.engine_reason) or None,
    }
    row = {"name": worker, "queue": queue} | said
    seen = {"seen_at": sa.func.now()} | said
    with database.transaction() as session:
        session.execute(insert(Worker).values(row).on_conflict_do_update(constraint="pk_workers", set_=seen))


class QueueHandler(Protocol):
    """The work of one queue."""

    #: None for a handler without a model.
    serving: Serving | None
    #: Seconds of time.monotonic() at which the work last got anywhere.
    progress: float

    def drain(self, stopping: threading.Event) -> None:
        """Work until nothing is left, a bounded time is over, or `stopping` is set."""

    def beat(self) -> None:
        """Extend what is on lease; called every heartbeat while there is progress."""


class Reloader(Protocol):
    """Keeps the handler's model the one that is active."""

    #: Why it is not, told with the sign of life.
    problem: str | None

    def check(self, handler: Any) -> None:
        """Change the handler's model if another one is active; may take as long as loading one does."""


class QueueRunner:
    """One handler in one process.

    The doorbell (a Celery task) and the poll every `poll_seconds` (a thread, so that work goes on without Redis)
    come in through the same door, one at a time. A second thread beats for as long as the work gets on, and for a
    handler with a model a third one keeps that model the right one.
    """

    def __init__(
        self,
        worker: str,
        queue: str,
        handler: QueueHandler,
        database: Database,
        settings: Settings,
        reloader: Reloader | None = None,
    ) -> None:
        self._worker, self._queue, self._handler, self._reloader = worker, queue, handler, reloader
        self._database, self._settings = database, settings
        self._stopping, self._closed = threading.Event(), threading.Event()
        self._rung = threading.Event()
        self._door, self._beating = threading.Lock(), threading.Lock()
        self._threads = [
            self._thread("poll", settings.poll_seconds, self._poll, self._stopping),
            # Until the end: what is under way when it stops is finished, and must not be lost meanwhile.
            self._thread("beat", settings.heartbeat_seconds, self._beat, self._closed),
        ]
        if reloader is not None:
            seconds = settings.poll_seconds * POLLS_PER_BUNDLE_CHECK
            self._threads.append(self._thread("reload", seconds, partial(self._reload, reloader), self._stopping))

    @property
    def progress(self) -> float:
        """Seconds of time.monotonic() at which the work last got anywhere."""
        return self._handler.progress

    def open(self) -> None:
        """Report for work and start to look for it."""
        self._beat()
        for thread in self._threads:
            thread.start()

    def work(self) -> None:
        """Drain; or, while another thread does, have it look once more when it is done, and return.

        Errors are logged, not raised: the work is still in the database and somebody looks again soon.
        """
        self._rung.set()
        while self._rung.is_set() and not self._stopping.is_set() and self._door.acquire(blocking=False):
            try:
                self._rung.clear()
                self._drain()
            finally:
                self._door.release()

    def _drain(self) -> None:
        try:
            self._handler.drain(self._stopping)
        except ThoraqError as error:
            log.warning("worker.drain_failed", queue=self._queue, error=error.type, detail=error.detail)
        self._handler.progress = time.monotonic()

    def stop(self) -> None:
        """Take no more work."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the work under way, then sign off."""
        self.stop()
        with self._door:
            self._closed.set()
        with self._beating, self._database.transaction() as session:
            mine = sa.and_(Worker.name == self._worker, Worker.queue == self._queue)
            session.execute(sa.delete(Worker).where(mine))

    def _thread(self, name: str, seconds: float, act: Callable[[], None], until: threading.Event) -> threading.Thread:
        every = partial(self._every, seconds, act, until)
        return threading.Thread(target=every, name=f"{self._queue}-{name}", daemon=True)

    def _every(self, seconds: float, act: Callable[[], None], until: threading.Event) -> None:
        while not until.wait(seconds):
            try:
                act()
            except Exception:
                # A thread that ends would end the sign of life; the next round may find things mended.
                log.exception("worker.thread_failed", queue=self._queue)

    def _poll(self) -> None:
        if not self._door.locked():
            self.work()

    def _reload(self, reloader: Reloader) -> None:
        try:
            reloader.check(self._handler)
        except ThoraqError as error:
            log.warning("worker.reload_failed", queue=self._queue, error=error.type, detail=error.detail)
        self._beat()

    def _beat(self) -> None:
        if time.monotonic() - self._handler.progress > self._settings.progress_seconds:
            return  # the watchdog says why, and what comes of it
        try:
            with self._beating:
                # Who signed off while a model was loading must not sign on again.
                if not self._closed.is_set():
                    self._handler.beat()
                    self._sign_on()
        except ThoraqError as error:
            log.warning("worker.beat_failed", queue=self._queue, error=error.type)

    def _sign_on(self) -> None:
        problem = None if self._reloader is None else self._reloader.problem
        _sign(self._database, self._worker, self._queue, self._handler.serving, problem)
