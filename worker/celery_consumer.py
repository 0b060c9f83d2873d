"""Celery's consumer, for a Redis that goes away and comes back."""

from __future__ import annotations

from typing import Any

import structlog
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

log = structlog.get_logger(__name__)

#: Between two tries to connect; Celery would let two seconds more pass each time, up to half a minute.
PAUSE_SECONDS = 1.0


class Listener(Consumer):
    """What a worker hears the doorbell with: deaf for as long as Redis is away, and hardly any longer."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection, once it is there, however long that takes."""
        pause = {"interval_start": PAUSE_SECONDS, "interval_step": 0, "interval_max": PAUSE_SECONDS}
        connected = conn.ensure_connection(self._away, callback=maybe_shutdown, **pause)
        self.first_connection_attempt = False
        return connected

    def _away(self, error: Exception, _pause: float) -> None:
        log.warning("doorbell.away", error=type(error).__name__)
