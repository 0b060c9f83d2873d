"""How much one key, and one tenant, may ask for: requests and bytes, counted in Redis for all processes together.

A count for every request would cost every request a round trip. A process takes a share of the window's allowance from
Redis instead (1/200 of it) and spends that by itself, so what is counted is exact, and at the limit a share early at
the most. Without Redis each process holds its requests to FALLBACK_SHARE of the limits by itself: none are let
through uncounted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar

import structlog
from cachetools import LRUCache
from flask import Response, request
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, WindowStats
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter

from shared.config import Settings
from shared.errors import RateLimited

SHARES = 200  # of a window's allowance: what a process takes at once
FALLBACK_SHARE = 4  # processes that share the allowance while nobody counts for all of them
PAUSE_SECONDS = 10.0  # of silence after Redis failed
KEPT = 10_000

Found = TypeVar("Found")

log = structlog.get_logger(__name__)


@dataclass
class Share:
    """What a process may still spend of one allowance until its window ends."""

    left: int = 0
    until: float = 0.0  # by time.time(), as Redis' windows are
    #: of the whole window, when the share was taken
    remaining: int = 0


@dataclass(frozen=True)
class Allowance:
    """So much in a window; `item` is the same for the library."""

    name: str
    item: RateLimitItem

    @property
    def share(self) -> int:
        return max(1, self.item.amount // SHARES)


class Limits:
    """The limits of one process. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._key = _allowance("requests of a key", RateLimitItemPerMinute, settings.limit_key_requests)
        self._tenant = _allowance("requests of a tenant", RateLimitItemPerMinute, settings.limit_tenant_requests)
        self._bytes = _allowance("bytes of a tenant", RateLimitItemPerHour, settings.limit_tenant_bytes)
        self._redis = FixedWindowRateLimiter(_redis_storage(settings))
        self._alone = FixedWindowRateLimiter(MemoryStorage())
        self._silent_until = 0.0
        self._lock = threading.Lock()
        self._shares: LRUCache[tuple[str, str], Share] = LRUCache(KEPT)

    def admit(self, key_id: str, tenant_id: str) -> None:
        """Count a request; RateLimited when it is beyond the limit of its key or its tenant."""
        if self._key is not None:
            self._spend(self._key, key_id, 1)
        if self._tenant is not None:
            self._spend(self._tenant, tenant_id, 1)

    def check_bytes(self, tenant_id: str, size: int) -> None:
        """Raise RateLimited when the tenant has not so many bytes left; nothing is counted."""
        if self._bytes is None or not size:
            return
        with self._lock:
            share = self._shares.get((self._bytes.name, tenant_id), Share())
            left = share.left if share.until > time.time() else 0
        if size > left:
            window = self._ask(self._bytes, lambda limiter, item: limiter.get_window_stats(item, tenant_id))
            if size - left > window.remaining:
                raise _spent(self._bytes, window)

    def count_bytes(self, tenant_id: str, size: int) -> None:
        """Count bytes that come, or are announced; RateLimited when they are beyond the tenant's limit."""
        if self._bytes is not None and size:
            self._spend(self._bytes, tenant_id, size)

    def add_headers(self, response: Response, key_id: str) -> None:
        """Add the headers that say what is left (draft-ietf-httpapi-ratelimit-headers, version 05)."""
        if self._key is None:
            return
        with self._lock:
            share = self._shares.get((self._key.name, key_id), Share())
        response.headers.add("RateLimit-Limit", str(self._key.item.amount))
        response.headers.add("RateLimit-Remaining", str(max(share.remaining + share.left, 0)))
        response.headers.add("RateLimit-Reset", str(max(int(share.until - time.time()), 0)))

    def _spend(self, allowance: Allowance, whose: str, cost: int) -> None:
        with self._lock:
            share = self._shares.setdefault((allowance.name, whose), Share())
            if share.left < cost or share.until <= time.time():
                self._take(allowance, whose, cost, share)
            share.left -= cost

    def _take(self, allowance: Allowance, whose: str, cost: int, share: Share) -> None:
        """Another share, at least what is asked for; RateLimited when the window's allowance is spent."""

        def take(limiter: FixedWindowRateLimiter, item: RateLimitItem) -> tuple[int, WindowStats]:
            wanted = max(cost, min(allowance.share, item.amount))
            taken = limiter.hit(item, whose, cost=wanted)
            return wanted if taken else 0, limiter.get_window_stats(item, whose)

        share.left, window = self._ask(allowance, take)
        # Redis tells whole seconds: in its last one a window seems over, and each request would take a share.
        share.until, share.remaining = max(window.reset_time, time.time() + 1), window.remaining
        if not share.left:
            raise _spent(allowance, window)

    def _ask(self, allowance: Allowance, ask: Callable[[FixedWindowRateLimiter, RateLimitItem], Found]) -> Found:
        """Return what Redis says; for a while after it has failed, what this process counts of its part by itself."""
        if time.monotonic() >= self._silent_until:
            try:
                return ask(self._redis, allowance.item)
            except StorageError as error:
                log.warning("limits.alone", error=type(error.storage_error).__name__)
                self._silent_until = time.monotonic() + PAUSE_SECONDS
        kind = type(allowance.item)
        return ask(self._alone, kind(max(1, allowance.item.amount // FALLBACK_SHARE)))


class CountedBody:
    """A body that is counted as it is read, and refused where the limit is reached."""

    def __init__(self, body: IO[bytes], count: Callable[[int], None]) -> None:
        self._body, self._count = body, count

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._body.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._counted(self._body.readline(size))

    def _counted(self, chunk: bytes) -> bytes:
        self._count(len(chunk))
        return chunk


def admit(limits: Limits, key_id: str, tenant_id: str) -> None:
    """Count the current request, and its body as it is read; RateLimited, before that, where it is too long.

    Bytes are counted when they are read, as a length is only what a client says: one that may not send anything could
    say so much that its whole tenant had nothing left.
    """
    limits.admit(key_id, tenant_id)
    limits.check_bytes(tenant_id, request.content_length or 0)
    if "wsgi.input" in request.environ:
        body = CountedBody(request.environ["wsgi.input"], partial(limits.count_bytes, tenant_id))
        request.environ["wsgi.input"] = body


def _spent(allowance: Allowance, window: WindowStats) -> RateLimited:
    seconds = max(1, round(window.reset_time - time.time()))
    return RateLimited(f"the limit of {allowance.name} is reached: {allowance.item}", retry_after=seconds)


def _allowance(name: str, kind: type[RateLimitItem], amount: int) -> Allowance | None:
    return Allowance(name, kind(amount, namespace="thoraq")) if amount else None


def _redis_storage(settings: Settings) -> RedisStorage:
    return RedisStorage(
        settings.redis_url.get_secret_value(), wrap_exceptions=True, socket_timeout=0.2, socket_connect_timeout=0.2
    )
