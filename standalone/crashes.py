"""When a child that keeps crashing may start again."""

from __future__ import annotations

import time


class Crashes:
    """When a child that keeps crashing may start again: after 1 s, then twice as long each time, at most 30 s."""

    CALM_SECONDS = 60

    def __init__(self) -> None:
        #: Seconds of the pause that is under way; None while the child runs.
        self.pause: float | None = None
        self._count = 0
        self._last = 0.0

    def note(self) -> float:
        """Count a crash and return the pause in seconds; a child that ran for a minute begins anew."""
        now = time.monotonic()
        self._count = 0 if now - self._last > self.CALM_SECONDS else self._count + 1
        self._last = now
        self.pause = min(30.0, 2.0**self._count)
        return self.pause

    @property
    def due(self) -> bool:
        """Whether the pause is over."""
        return self.pause is not None and time.monotonic() >= self._last + self.pause
