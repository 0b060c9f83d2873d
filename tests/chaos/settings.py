"""The settings of a chaos run: what takes a minute in production takes seconds here."""

from __future__ import annotations

import os

LEASE_SECONDS = 6.0
SETTINGS = {
    "THORAQ_LEASE_SECONDS": f"{LEASE_SECONDS:.0f}",
    "THORAQ_HEARTBEAT_SECONDS": "1",
    "THORAQ_POLL_SECONDS": "1",
    "THORAQ_SWEEP_SECONDS": "1",
    "THORAQ_RETRY_BASE_SECONDS": "0.5",
    # Patient enough for every receiver fault of a run: a delivery that is given up is one that was lost.
    "THORAQ_WEBHOOK_RETRY_SECONDS": "1,1,2,2" + ",4" * 20,
    "THORAQ_WEBHOOK_TIMEOUT_SECONDS": "3",
}


def environ() -> dict[str, str]:
    """The environment of the system under test, without the settings of whoever runs it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")} | SETTINGS
