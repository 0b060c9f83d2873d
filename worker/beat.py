"""Celery's beat with a heartbeat: when its loop last went round, as a gauge that /metrics shows.

`celery beat` listens to nobody, and what it writes (its schedule) may be as old as its first start: neither says
whether it still sends anything.
"""

from __future__ import annotations

from typing import Any

from celery.beat import PersistentScheduler
from prometheus_client import Gauge

#: Also read by worker/beat_check.py.
TICK = "thoraq_beat_last_tick_timestamp_seconds"
TICKED = Gauge(TICK, "Unix time at which beat last looked at its schedule")


class HeartbeatScheduler(PersistentScheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's own scheduler, which says when it last looked at the schedule."""

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due; returns the seconds until something is due again."""
        seconds: float = super().tick(*arguments, **options)
        TICKED.set_to_current_time()
        return seconds
