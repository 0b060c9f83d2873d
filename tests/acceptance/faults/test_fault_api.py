"""The API dies: what it had accepted is done, what it had not leaves no trace, and the same key asks for it once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest

from tests.chaos.system import System
from tests.support.faults import Hospital
from tests.support.waiting import EVENT_SECONDS, until

JOBS = "SELECT count(*) FROM jobs WHERE external_id = :key"


def kill_while(system: System, caught: threading.Event, request: Callable[[], httpx.Response]) -> None:
    """Send a request, and kill the API when it is caught at what it does; nobody gets an answer."""
    answers: list[httpx.Response] = []

    def send() -> None:
        try:
            answers.append(request())
        except httpx.TransportError:
            return  # the API has died of it

    sender = threading.Thread(target=send)
    sender.start()
    assert caught.wait(EVENT_SECONDS), "it never came so far"
    system.children["api"].kill()
    sender.join()
    system.mend()


def store_of(system: System) -> int:
    """How many objects there are."""
    return len(list(system.storage().list("")))


def test_the_api_killed_between_the_object_and_its_row(system: System, hospital: Hospital) -> None:
    before = store_of(system)
    caught = system.proxies["store"].trap(b"PUT /", before=False)  # the object is there, and the API never hears it
    kill_while(system, caught, lambda: hospital.submit("put"))
    until(lambda: store_of(system) == before + 1)
    assert hospital.count(JOBS, key="put") == 0
    again = hospital.try_again(lambda: hospital.submit("put"))
    assert "Idempotency-Replayed" not in again.headers
    hospital.assert_each_answered_once([again.json()["id"]])


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_api_killed_at_the_commit(system: System, hospital: Hospital, before: bool) -> None:
    key = f"commit-{before}"
    caught = system.proxies["postgres"].trap(key.encode(), b"COMMIT", before=before)
    kill_while(system, caught, lambda: hospital.submit(key))
    assert hospital.count(JOBS, key=key) == (0 if before else 1)
    again = hospital.try_again(lambda: hospital.submit(key))
    assert ("Idempotency-Replayed" in again.headers) is not before
    assert hospital.count(JOBS, key=key) == 1
    hospital.assert_each_answered_once([again.json()["id"]])


def test_the_api_killed_between_the_commit_and_the_doorbell(system: System, hospital: Hospital) -> None:
    caught = system.proxies["redis"].trap(b"LLEN", b"classify", before=True)
    kill_while(system, caught, lambda: hospital.submit("bell"))
    again = hospital.try_again(lambda: hospital.submit("bell"))
    assert hospital.count(JOBS, key="bell") == 1
    hospital.assert_each_answered_once([again.json()["id"]])


def test_the_api_killed_in_the_middle_of_a_batch(system: System, hospital: Hospital) -> None:
    caught = system.proxies["postgres"].trap(b"batch-dies", b"COMMIT", before=True)
    kill_while(system, caught, lambda: hospital.submit_batch("batch-dies", 12))
    batches = "SELECT count(*) FROM batches WHERE external_id = 'batch-dies'"
    assert hospital.count(batches) == 0
    answers = {hospital.try_again(lambda: hospital.submit_batch("batch-dies", 12)).json()["id"] for _ in range(2)}
    assert hospital.count(batches) == len(answers) == 1
    hospital.assert_each_answered_once(hospital.of_batch(answers.pop(), 12))
