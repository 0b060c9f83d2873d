"""What a process of the API remembers for seconds, so that it need not ask the database at every request."""

from __future__ import annotations

import threading
import time
from typing import Generic, NamedTuple, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class _Entry(NamedTuple, Generic[Value]):
    value: Value
    until: float
    size: int


class TTLCache(Generic[Value]):
    """A bounded cache whose entries expire. Threads may share it; processes have one each.

    `room` bounds the sum of what the entries are said to take. The least recently used go first.
    """

    def __init__(self, room: int) -> None:
        self._lock = threading.Lock()
        # Not TLRUCache, which looks for what has run out at every access: what nobody asks for again goes first anyway.
        self._entries: LRUCache[tuple[str, ...], _Entry[Value]] = LRUCache(room, getsizeof=lambda entry: entry.size)

    def get(self, *key: str) -> Value | None:
        """Return what was put in under the key, if it is not forgotten."""
        with self._lock:
            entry = self._entries.get(key)
        return None if entry is None or entry.until <= time.monotonic() else entry.value

    def forget(self, *key: str) -> None:
        """Forget what was put in under the key."""
        with self._lock:
            self._entries.pop(key, None)

    def put(self, *key: str, value: Value, seconds: float, size: int = 1) -> None:
        """Remember for so many seconds; what takes more than the whole room is not kept."""
        with self._lock:
            if size <= self._entries.maxsize and seconds > 0:
                self._entries[key] = _Entry(value, time.monotonic() + seconds, size)
