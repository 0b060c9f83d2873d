"""Redis as a doorbell: Celery's settings, the names of queues and tasks, and how the bell is rung.

A message is a hint that there is work, never the work: losing one costs a few seconds until a worker looks by
itself. That is why every setting below prefers a fast failure to a safe message.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from shared.config import Settings

log = structlog.get_logger(__name__)

CLASSIFY, DELIVER, SWEEP = "classify", "deliver", "sweep"
QUEUES = (CLASSIFY, DELIVER, SWEEP)


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration, the same in every process."""
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        # Results live in PostgreSQL; a result backend would be a second truth.
        "task_ignore_result": True,
        "result_backend": None,
        # Acknowledged on receipt: the lease in the database is the acknowledgement that counts.
        "task_acks_late": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        # A busy worker leaves the next doorbell to an idle one.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # A worker outlives any outage of Redis and takes up the doorbell again afterwards.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "retry_on_timeout": False,
        },
        "task_default_queue": CLASSIFY,
        "task_routes": {f"thoraq.{queue}": {"queue": queue} for queue in QUEUES},
        "task_create_missing_queues": True,
        "worker_soft_shutdown_timeout": 10,
        "worker_enable_soft_shutdown_on_idle": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "beat_schedule": {
            # Expires, so that sweeps do not pile up in Redis while no worker takes them.
            "sweep": {
                "task": f"thoraq.{SWEEP}",
                "schedule": settings.sweep_seconds,
                "options": {"queue": SWEEP, "expires": settings.sweep_seconds},
            },
        },
    }


# After a failed ring, this many seconds of silence: a Redis that is away must not slow every request by its timeout.
PAUSE_SECONDS = 2


class Bell:
    """A process's way to ring. Best effort and quick."""

    def __init__(self, redis_url: str) -> None:
        self._app = Celery("thoraq", set_as_current=False)
        self._app.conf.update(
            broker_url=redis_url,
            task_ignore_result=True,
            broker_transport_options={"socket_timeout": 1, "socket_connect_timeout": 1, "retry_on_timeout": False},
        )
        self._silent_until = 0.0

    def ring(self, queue: str) -> bool:
        """Tell some worker of a queue that there is work; False when Redis did not take it."""
        if time.monotonic() < self._silent_until:
            return False
        try:
            self._app.send_task(f"thoraq.{queue}", queue=queue, retry=False, expires=60)
        except OperationalError as error:
            # Workers look by themselves within poll_seconds, so this delays work and loses none.
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            log.warning("doorbell.lost", queue=queue, error=type(error).__name__)
            return False
        return True


@functools.cache
def _bell(redis_url: str) -> Bell:
    return Bell(redis_url)


def ring(settings: Settings, queue: str) -> bool:
    """Ring with the process's one bell."""
    return _bell(settings.redis_url.get_secret_value()).ring(queue)
