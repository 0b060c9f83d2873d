"""Beat's health check: `python -m worker.beat_check` beside it, with its environment.

Exit code 0 when its loop went round a moment ago, else 1 and why. The process that hangs answers nothing; the loop that
hangs lets its last round grow old. Of the standard library alone: it is started six times a minute, and on a machine
with more to do than it can, what takes a second to import is not done in time.
"""

from __future__ import annotations

import os
import sys
import time
from urllib.request import urlopen

TICK = "thoraq_beat_last_tick_timestamp_seconds"
#: Several rounds may be missed while Redis is away: each then takes as long as the connections' timeouts.
LEAST_SECONDS, MOST_ROUNDS = 60.0, 3


def main() -> str | None:
    """Return what is wrong, or None."""
    with urlopen(f"http://127.0.0.1:{os.environ['THORAQ_METRICS_PORT']}/metrics", timeout=8) as answer:
        lines = answer.read().decode().splitlines()
    ticked = next(float(line.split()[1]) for line in lines if line.startswith(f"{TICK} "))
    age = time.time() - ticked
    # Beat itself has refused a value that is no number.
    most = max(LEAST_SECONDS, MOST_ROUNDS * float(os.environ.get("THORAQ_SWEEP_SECONDS", "0")))
    return None if age <= most else f"beat last looked at its schedule {age:.0f} s ago"


if __name__ == "__main__":
    sys.exit(main())
