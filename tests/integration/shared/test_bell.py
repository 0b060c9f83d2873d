"""The doorbell on a real Redis: how often it rings, and that the last ring is never lost."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable

import pytest
import redis

from shared.config import Settings
from shared.doorbell import BUSY_SECONDS, CLASSIFY, DELIVER, GAP_SECONDS, Bell, ring
from standalone.services import Redis
from tests.support.waiting import EVENT_SECONDS

RINGS = 2_000


@pytest.fixture
def wire(redis_url: str, clean_redis: None) -> redis.Redis:  # noqa: ARG001
    return redis.Redis.from_url(redis_url)


def eventually(condition: Callable[[], object]) -> bool:
    """Whether it becomes true; not asked again after that, as asking may take a message away."""
    deadline = time.monotonic() + EVENT_SECONDS
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(found)


def test_a_ring_is_a_message_for_a_celery_worker(wire: redis.Redis, redis_url: str) -> None:
    Bell(redis_url).ring(CLASSIFY)
    assert eventually(lambda: wire.llen(CLASSIFY))
    message = json.loads(wire.lindex(CLASSIFY, 0) or b"")
    assert message["headers"]["task"] == f"thoraq.{CLASSIFY}"


def test_a_burst_rings_few_times_and_the_last_ring_is_not_lost(wire: redis.Redis, redis_url: str) -> None:
    bell, made, seen = Bell(redis_url), 0, [0]

    def worker() -> None:
        while seen[-1] < RINGS and wire.brpop([CLASSIFY], timeout=EVENT_SECONDS):
            seen.append(made)

    looking = threading.Thread(target=worker)
    looking.start()
    began = time.monotonic()
    for made in range(1, RINGS + 1):  # noqa: B007 - what there is to see
        bell.ring(CLASSIFY)
        time.sleep(0.0001)
    looking.join()
    assert seen[-1] == RINGS
    assert len(seen) - 1 <= (time.monotonic() - began) / GAP_SECONDS + 1


def test_a_message_that_nobody_has_taken_speaks_for_what_comes_after_it(wire: redis.Redis, redis_url: str) -> None:
    bell = Bell(redis_url)
    for _ in range(20):
        bell.ring(CLASSIFY)
        bell.flush()
    assert wire.llen(CLASSIFY) == 1
    bell.ring(DELIVER)
    assert eventually(lambda: wire.llen(DELIVER) == 1)


def test_while_a_message_lies_there_it_looks_less_often(wire: redis.Redis, redis_url: str) -> None:
    bell = Bell(redis_url)
    bell.ring(CLASSIFY)
    assert eventually(lambda: wire.llen(CLASSIFY))
    wire.config_resetstat()
    began = time.monotonic()
    while time.monotonic() < began + 0.5:
        bell.ring(CLASSIFY)
        time.sleep(0.001)
    looks = wire.info("commandstats")["cmdstat_llen"]["calls"]
    assert 1 <= looks <= (time.monotonic() - began) / BUSY_SECONDS + 1
    assert wire.llen(CLASSIFY) == 1


def test_it_rings_again_when_redis_is_back(wire: redis.Redis, redis_service: Redis) -> None:
    bell = Bell(redis_service.url)
    bell.ring(CLASSIFY)
    assert eventually(lambda: wire.lpop(CLASSIFY))
    redis_service.kill()
    for _ in range(RINGS):
        bell.ring(CLASSIFY)
    redis_service.start()
    redis_service.wait_ready()

    def heard() -> object:
        bell.ring(CLASSIFY)
        return wire.lpop(CLASSIFY)

    assert eventually(heard)


def ring_in_child(settings: Settings) -> None:
    ring(settings, DELIVER)
    time.sleep(5)


def test_a_fork_has_a_bell_of_its_own(wire: redis.Redis, settings: Settings) -> None:
    ring(settings, CLASSIFY)
    assert eventually(lambda: wire.llen(CLASSIFY))
    child = multiprocessing.get_context("fork").Process(target=ring_in_child, args=[settings])
    child.start()
    try:
        assert eventually(lambda: wire.llen(DELIVER))
    finally:
        child.kill()
        child.join()
