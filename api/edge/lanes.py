"""Who may have a thread: each tenant so many at once, and in turns where all are taken.

For one event loop, not for threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import Busy

#: How many requests of one key may wait for their turn; what comes beyond is refused.
MOST_WAITING = 4_000


class Lanes:
    """So many slots, of which one key has `each` at most; who waits is served in turns of the keys."""

    def __init__(self, total: int, each: int) -> None:
        self._free, self._each = total, each
        self._taken: Counter[str] = Counter()
        #: Those that wait, by key; the key whose turn is next comes first.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Hold a slot, once there is one; Busy when too many of the same key wait already."""
        if not self._take(key):
            await self._wait(key)
        try:
            yield
        finally:
            self._give_back(key)

    def _take(self, key: str) -> bool:
        granted = self._free > 0 and self._taken[key] < self._each
        if granted:
            self._free -= 1
            self._taken[key] += 1
        return granted

    async def _wait(self, key: str) -> None:
        line = self._waiting.setdefault(key, deque())
        if len(line) >= MOST_WAITING:
            raise Busy
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(key)
            raise

    def _give_back(self, key: str) -> None:
        self._free += 1
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]
        for waiting in list(self._waiting):
            if not self._free:
                return
            self._serve(waiting)

    def _serve(self, key: str) -> None:
        """Give a slot to the next of this key, and let the other keys go before its next one."""
        line = self._waiting[key]
        while line and line[0].done():  # cancelled
            line.popleft()
        if line and self._take(key):
            line.popleft().set_result(None)
            self._waiting[key] = self._waiting.pop(key)
        if not line:
            del self._waiting[key]
