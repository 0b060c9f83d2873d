"""How many requests of a process may wait at once.

Who finds no slot is answered at once, as without `Prefer: wait` (RFC 7240, section 2: a server may ignore it).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared import metrics


class WaitSlots:
    """The slots of one process; for several threads."""

    def __init__(self, total: int, per_tenant: int) -> None:
        self._total, self._per_tenant = total, per_tenant
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, tenant_id: str) -> Iterator[bool]:
        """Hold a slot while the caller waits; False when all, or all of this tenant, are taken."""
        granted = self._take(tenant_id)
        try:
            yield granted
        finally:
            if granted:
                self._give_back(tenant_id)

    def _take(self, tenant_id: str) -> bool:
        with self._lock:
            free = self._taken.total() < self._total and self._taken[tenant_id] < self._per_tenant
            if free:
                self._taken[tenant_id] += 1
                metrics.WAITS.inc()
            else:
                metrics.WAITS_DECLINED.inc()
            return free

    def _give_back(self, tenant_id: str) -> None:
        metrics.WAITS.dec()
        with self._lock:
            self._taken[tenant_id] -= 1
            if not self._taken[tenant_id]:
                del self._taken[tenant_id]
