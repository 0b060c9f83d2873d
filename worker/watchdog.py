"""Ends the process when its work gets nowhere: its leases run out, and what watches over it starts it again.

A call of an engine or a codec that hangs cannot be ended in any other way. The timer is faulthandler's, in a thread of
C: it fires also when the call that hangs holds the interpreter, and it writes every thread's stack to stderr first
(places in the code, no values).
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)
LOOKS = 10
#: The timer's, after the log has said why.
GRACE_SECONDS = 1.0


class Watchdog:
    """One for the process. `progress` says when the work last got anywhere, in seconds of time.monotonic()."""

    def __init__(self, seconds: float, progress: Callable[[], float]) -> None:
        self._seconds, self._progress = seconds, progress

    def start(self) -> None:
        """Watch until the process ends."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while (left := self._progress() + self._seconds - time.monotonic()) > 0:
            faulthandler.dump_traceback_later(left + GRACE_SECONDS, exit=True)
            time.sleep(min(left, self._seconds / LOOKS))
        # The timer is not put off any more.
        log.error("worker.stuck", seconds=self._seconds)
