"""Who waits for a job or a batch hears of its end from PostgreSQL: NOTIFY in its transaction, one LISTEN a process.

A notification is a hint. It may be lost with its connection, so whoever waits also looks by itself now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from shared.config import Settings

CHANNEL = "thoraq_finished"
#: Ids in one notification: its payload must be shorter than 8000 bytes (PostgreSQL's manual, NOTIFY).
IDS_PER_NOTIFICATION = 200
#: The connection is kept for so long after the last one who waited.
IDLE_SECONDS = 30.0
RETRY_SECONDS = 1.0
NOTIFY = sa.select(sa.func.pg_notify(CHANNEL, sa.bindparam("ids", type_=sa.Text)))

log = structlog.get_logger(__name__)


def announce(session: Session, ids: Sequence[str]) -> None:
    """Tell whoever waits, when the caller's transaction commits, that these jobs or batches have ended."""
    for start in range(0, len(ids), IDS_PER_NOTIFICATION):
        session.execute(NOTIFY, {"ids": ",".join(ids[start : start + IDS_PER_NOTIFICATION])})


class Listener:
    """Wakes the threads of a process that wait. Its own thread lives while somebody waits."""

    def __init__(self, settings: Settings) -> None:
        self._url = sa.make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Callable[[], object]]] = {}
        #: of those who are called: whoever began to wait, or lost a notification, before it was listened
        self._again: list[Callable[[], object]] = []
        self._thread: threading.Thread | None = None
        self._listens = threading.Event()

    @property
    def hears(self) -> bool:
        """Whether notifications come."""
        return self._listens.is_set()

    @contextmanager
    def expecting(self, awaited: str) -> Iterator[threading.Event]:
        """Provide an event that is set when this job or batch ends. Look at it after entering, not before."""
        ended = threading.Event()
        with self._registered(awaited, ended.set):
            self._listens.wait(RETRY_SECONDS)
            yield ended

    @contextmanager
    def calling(self, awaited: str, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` when it ends, in a thread of the listener; and whenever it may have ended unheard."""
        with self._registered(awaited, wake):
            with self._lock:
                self._again.append(wake)
            try:
                yield
            finally:
                with self._lock:
                    self._again.remove(wake)

    @contextmanager
    def _registered(self, awaited: str, wake: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._waiting.setdefault(awaited, []).append(wake)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="finished", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting[awaited].remove(wake)
                if not self._waiting[awaited]:
                    del self._waiting[awaited]

    def _run(self) -> None:
        while self._is_wanted():
            try:
                self._listen()
            except psycopg.OperationalError as error:
                # Those who wait look by themselves meanwhile.
                log.warning("finished.deaf", error=type(error).__name__)
                time.sleep(RETRY_SECONDS)
            finally:
                self._listens.clear()

    def _is_wanted(self) -> bool:
        """Whether somebody waits; if not, the thread has ended, and the next one who waits starts another."""
        with self._lock:
            if not self._waiting:
                self._thread = None
            return bool(self._waiting)

    def _listen(self) -> None:
        """Until nobody has waited for a while; OperationalError when the connection is lost."""
        url = self._url.render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            self._listens.set()
            with self._lock:
                for wake in self._again:
                    wake()
            idle_since = time.monotonic()
            while time.monotonic() - idle_since < IDLE_SECONDS:
                for notification in connection.notifies(timeout=1):
                    self._wake(notification.payload.split(","))
                if self._waiting:
                    idle_since = time.monotonic()

    def _wake(self, ids: Sequence[str]) -> None:
        with self._lock:
            for one in ids:
                for wake in self._waiting.get(one, ()):
                    wake()
