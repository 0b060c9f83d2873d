"""Waits for events, which end as soon as the event is there, however busy the machine is.

Loading a model or starting a process takes ten times as long beside busy neighbours. A wait is no claim about speed
(bench/ measures that): its ceiling only has to be below the timeout of pytest, so that a test says what it missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: The longest wait for one event: of a process to start or to end, of a model to load, of a thread to get somewhere.
EVENT_SECONDS = 240.0
POLL_SECONDS = 0.01


def until(condition: Callable[[], object], seconds: float = EVENT_SECONDS) -> None:
    """Return once the condition holds; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass within {seconds:g} s"
        time.sleep(POLL_SECONDS)
