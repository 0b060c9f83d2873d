"""What this worker holds on lease: claimed, and not yet written back or given up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

from shared.db.engine import Database
from shared.jobs import states
from shared.jobs.claims import Claim


class Leases:
    """The leases of one worker; for several threads."""

    def __init__(self, database: Database, lease: timedelta) -> None:
        self._database, self._lease = database, lease
        self._leased: dict[str, Claim] = {}
        self._lock = threading.Lock()

    def add(self, claims: Sequence[Claim]) -> None:
        """Extend these from now on."""
        with self._lock:
            self._leased.update({claim.job_id: claim for claim in claims})

    def forget(self, claims: Sequence[Claim]) -> None:
        """Let these run out, unless they are over already."""
        with self._lock:
            for claim in claims:
                if self._leased.get(claim.job_id) == claim:
                    del self._leased[claim.job_id]

    def is_leased(self, claim: Claim) -> bool:
        """Return True if it is on lease here, as far as the last heartbeat knows."""
        with self._lock:
            return self._leased.get(claim.job_id) == claim

    def beat(self) -> None:
        """Extend them all; what was lost meanwhile is forgotten: it is not worth running."""
        with self._lock:
            claims = list(self._leased.values())
        if not claims:
            return
        with self._database.transaction() as session:
            kept = states.heartbeat(session, claims, self._lease)
        self.forget([claim for claim in claims if claim.job_id not in kept])

    def lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Which of these are lost, by the database's word; they are forgotten."""
        if not claims:
            return []
        with self._database.transaction() as session:
            kept = states.leased(session, claims)
        lost = [claim for claim in claims if claim.job_id not in kept]
        self.forget(lost)
        return lost

    def release(self, claims: Sequence[Claim]) -> None:
        """Give jobs back that were not run."""
        self.forget(claims)
        with self._database.transaction() as session:
            states.release(session, claims)
