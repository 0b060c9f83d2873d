"""What a process remembers: for seconds, and no more than there is room for."""

from __future__ import annotations

import time

from api.http.ttl_cache import Memory


def test_it_forgets_by_time() -> None:
    memory: Memory[int] = Memory(10)
    memory.put("a", value=1, seconds=0.2)
    memory.put("b", value=2, seconds=60)
    memory.put("c", value=3, seconds=0)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, 2, None)
    time.sleep(0.25)
    assert (memory.get("a"), memory.get("b")) == (None, 2)


def test_what_was_not_used_for_longest_makes_room() -> None:
    memory: Memory[int] = Memory(10)
    for name in "ab":
        memory.put(name, value=1, seconds=60, size=4)
    assert memory.get("a") == 1
    memory.put("c", value=1, seconds=60, size=4)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 1)
    memory.put("d", value=1, seconds=60, size=11)
    assert memory.get("d") is None


def test_it_forgets_what_it_is_told_to() -> None:
    memory: Memory[int] = Memory(10)
    memory.put("a", "b", value=1, seconds=60)
    memory.put("a", "b", value=2, seconds=60)
    assert memory.get("a", "b") == 2
    memory.forget("a", "b")
    memory.forget("a", "b")
    assert memory.get("a", "b") is None
