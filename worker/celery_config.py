"""Celery's configuration, the same in every process of a worker.

A message is a doorbell (shared/doorbell.py): every setting prefers a fast failure to a safe message.
"""

from __future__ import annotations

from typing import Any

from shared.config import Settings
from shared.doorbell import CLASSIFY, QUEUES, SWEEP


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return what `app.conf` takes."""
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
            # Nothing is acknowledged to Redis: it would be a write for each doorbell, and one that finds its connection
            # just lost ends the worker.
            "ack_emulation": False,
            "socket_timeout": 1,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "retry_on_timeout": False,
            # A connection whose other end is gone, and never said so, is noticed within twice this and a second.
            "health_check_interval": 2,
        },
        "task_default_queue": CLASSIFY,
        "task_routes": {f"thoraq.{queue}": {"queue": queue} for queue in QUEUES},
        "task_create_missing_queues": True,
        "worker_soft_shutdown_timeout": 10,
        "worker_enable_soft_shutdown_on_idle": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        # Nobody uses it, and it is one more connection that can hang.
        "worker_enable_remote_control": False,
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
