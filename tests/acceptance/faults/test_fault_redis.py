"""The doorbell fails in every way: the work is done without it, and it is heard again within ten seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from shared.doorbell import CLASSIFY
from standalone.process import Service
from tests.chaos.system import System
from tests.support.faults import Hospital
from tests.support.waiting import EVENT_SECONDS

pytestmark = pytest.mark.usefixtures("listener")


@pytest.fixture
def listener(system: System, hospital: Hospital) -> Iterator[Service]:
    """A worker that never looks for work by itself, beside one that does; it has heard the doorbell once."""
    worker = system.worker("listener", THORAQ_POLL_SECONDS="3600")
    system.stack.stop("classify")
    hospital.assert_each_answered_once(hospital.ids(1))
    system.stack.start("classify")
    yield worker
    worker.stop()


def assert_hears_again(system: System, hospital: Hospital) -> None:
    """What is accepted now is done long before the worker that is left would look by itself: it hears the doorbell."""
    system.children["classify"].kill()
    hospital.assert_each_answered_once(hospital.ids(1))


def test_redis_killed(system: System, hospital: Hospital) -> None:
    system.redis.kill()
    hospital.assert_each_answered_once(hospital.ids(4))
    system.redis.start()
    system.redis.wait_ready()
    assert_hears_again(system, hospital)


def test_redis_emptied_with_jobs_queued(system: System, hospital: Hospital, listener: Service) -> None:
    system.stack.stop("classify")
    listener.ask_to_stop()
    assert listener.wait_stopped(EVENT_SECONDS)
    ids = hospital.ids(4)
    with redis.Redis.from_url(system.redis.url) as wire:
        wire.flushall()
        assert not wire.llen(CLASSIFY)
    system.stack.start("classify")
    hospital.assert_each_answered_once(ids)
    listener.start()
    assert_hears_again(system, hospital)


def test_redis_down_for_long(system: System, hospital: Hospital) -> None:
    # Ten times any pause between two attempts to connect, and any timeout: none of them grows.
    back = time.monotonic() + 20
    system.proxies["redis"].refuse()
    while time.monotonic() < back:
        hospital.assert_each_answered_once(hospital.ids(2))
        time.sleep(5)
    system.proxies["redis"].mend()
    assert_hears_again(system, hospital)


def test_redis_connections_that_are_half_open(system: System, hospital: Hospital) -> None:
    system.proxies["redis"].half_open()
    assert_hears_again(system, hospital)
    hospital.assert_each_answered_once(hospital.ids(4))


def test_a_redis_that_hangs(system: System, hospital: Hospital) -> None:
    system.proxies["redis"].black_hole()
    ids = hospital.ids(2)
    time.sleep(6)  # longer than any timeout of a socket
    hospital.assert_each_answered_once([*ids, *hospital.ids(2)])
    system.proxies["redis"].mend()
    assert_hears_again(system, hospital)


@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_redis_connections_reset_twenty_times(system: System, hospital: Hospital, seconds: float) -> None:
    ids: list[str] = []
    pids = {name: child.pid for name, child in system.children.items()}
    for _ in range(20):
        system.proxies["redis"].reset()
        ids += hospital.ids(1)
        time.sleep(seconds)
    hospital.assert_each_answered_once(ids)
    assert {name: child.pid for name, child in system.children.items() if child.running} == pids, "some have died of it"
    assert_hears_again(system, hospital)
