"""Redis as a doorbell: the names of queues, and how the bell is rung.

A message is a hint that there is work, never the work: losing one costs a few seconds until a worker looks by
itself.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.config import Settings

log = structlog.get_logger(__name__)

CLASSIFY, DELIVER, SWEEP = "classify", "deliver", "sweep"
QUEUES = (CLASSIFY, DELIVER, SWEEP)


#: What asks for a ring within this time of another one shares the next.
GAP_SECONDS = 0.005
#: The same after a look that found a message there: whoever is to take it is busy, and finds what came until then.
BUSY_SECONDS = 0.02
# After a failed ring, this many seconds of silence: nobody answers, and workers look by themselves meanwhile.
PAUSE_SECONDS = 2


class Bell:
    """A process's way to ring: best effort, and off the callers' threads. Its own thread starts with the first ring."""

    def __init__(self, redis_url: str) -> None:
        self._app = Celery("thoraq", set_as_current=False)
        self._app.conf.update(
            broker_url=redis_url,
            task_ignore_result=True,
            broker_transport_options={"socket_timeout": 1, "socket_connect_timeout": 1, "retry_on_timeout": False},
        )
        self._redis = Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
        self._asked: set[str] = set()
        self._change = threading.Condition()
        # One sender at a time, so that it sees the message that the other has just left.
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self, queue: str) -> None:
        """Tell some worker of a queue that there is work. Rings that come close together are one ring."""
        with self._change:
            self._asked.add(queue)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
                self._thread.start()
            self._change.notify()

    def flush(self) -> float:
        """Ring now for what was asked and is not rung yet; the seconds in which another ring would be of no use."""
        with self._change:
            asked, self._asked = self._asked, set()
        with self._sending:
            return max((self._send(queue) for queue in sorted(asked)), default=0)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._asked)
            time.sleep(self.flush())

    def _send(self, queue: str) -> float:
        try:
            # Whoever takes a message that lies there looks for work after that, and then finds ours too.
            if self._redis.llen(queue):
                return BUSY_SECONDS
            self._app.send_task(f"thoraq.{queue}", queue=queue, retry=False)
        except (OperationalError, RedisError) as error:
            # Workers look by themselves within poll_seconds, so this delays work and loses none.
            log.warning("doorbell.lost", queue=queue, error=type(error).__name__)
            return PAUSE_SECONDS
        return GAP_SECONDS


@functools.cache
def _bell(redis_url: str) -> Bell:
    bell = Bell(redis_url)
    atexit.register(bell.flush)
    return bell


# Threads do not survive a fork: the child makes its own bell.
os.register_at_fork(after_in_child=_bell.cache_clear)


def ring(settings: Settings, queue: str) -> None:
    """Ring with the process's one bell."""
    _bell(settings.redis_url.get_secret_value()).ring(queue)
