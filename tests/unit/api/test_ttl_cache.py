"""The cache of a process: for seconds, and no more than there is room for."""

from __future__ import annotations

import time

from api.http.ttl_cache import TTLCache


def test_it_forgets_by_time() -> None:
    cache: TTLCache[int] = TTLCache(10)
    cache.put("a", value=1, seconds=0.2)
    cache.put("b", value=2, seconds=60)
    cache.put("c", value=3, seconds=0)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, 2, None)
    time.sleep(0.25)
    assert (cache.get("a"), cache.get("b")) == (None, 2)


def test_what_was_not_used_for_longest_makes_room() -> None:
    cache: TTLCache[int] = TTLCache(10)
    for name in "ab":
        cache.put(name, value=1, seconds=60, size=4)
    assert cache.get("a") == 1
    cache.put("c", value=1, seconds=60, size=4)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 1)
    cache.put("d", value=1, seconds=60, size=11)
    assert cache.get("d") is None


def test_it_forgets_what_it_is_told_to() -> None:
    cache: TTLCache[int] = TTLCache(10)
    cache.put("a", "b", value=1, seconds=60)
    cache.put("a", "b", value=2, seconds=60)
    assert cache.get("a", "b") == 2
    cache.forget("a", "b")
    cache.forget("a", "b")
    assert cache.get("a", "b") is None
