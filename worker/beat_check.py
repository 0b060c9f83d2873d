"""Beat's health check: `python -m worker.beat_check` beside it, with its environment.

Exit code 0 when its loop went round a moment ago, else 1 and why. The process that hangs answers nothing; the loop that
hangs lets its last round grow old.
"""

from __future__ import annotations

import sys
import time
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from shared.config import settings

TICK = "thoraq_beat_last_tick_timestamp_seconds"
#: Several rounds may be missed while Redis is away: each then takes as long as the connections' timeouts.
LEAST_SECONDS, MOST_ROUNDS = 60.0, 3


def main() -> str | None:
    """What is wrong, or None."""
    config = settings()
    with urlopen(f"http://127.0.0.1:{config.metrics_port}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    ticked = next(sample.value for family in families for sample in family.samples if sample.name == TICK)
    age = time.time() - ticked
    most = max(LEAST_SECONDS, MOST_ROUNDS * config.sweep_seconds)
    return None if age <= most else f"beat last looked at its schedule {age:.0f} s ago"


if __name__ == "__main__":
    sys.exit(main())
