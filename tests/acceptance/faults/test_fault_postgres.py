"""PostgreSQL dies and hangs: what was answered with 202 is there, and a batch is there whole or not at all."""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.chaos.system import System
from tests.support.faults import Hospital
from tests.support.waiting import EVENT_SECONDS, until

BATCHES = "SELECT count(*) FROM batches WHERE external_id = :key"
JOBS = "SELECT count(*) FROM jobs JOIN batches b ON b.id = batch_id WHERE b.external_id = :key"
SIZE = 20


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_postgres_restarted_in_mid_commit(system: System, hospital: Hospital, before: bool) -> None:
    key = f"mid-commit-{before}"
    caught = system.proxies["postgres"].trap(key.encode(), b"COMMIT", before=before)
    answers: list[httpx.Response] = []
    sender = threading.Thread(target=lambda: answers.append(hospital.submit_batch(key, SIZE)))
    sender.start()
    assert caught.wait(EVENT_SECONDS), "it never came so far"
    if not before:
        until(lambda: hospital.count(BATCHES, key=key))
    system.postgres.kill()
    system.proxies["postgres"].mend()
    system.postgres.start()
    sender.join()
    assert [answer.status_code for answer in answers] == [503]  # it does not know, so it does not promise
    system.postgres.wait_ready()
    assert hospital.count(JOBS, key=key) == (0 if before else SIZE)
    ids = {hospital.try_again(lambda: hospital.submit_batch(key, SIZE)).json()["id"] for _ in range(2)}
    assert (hospital.count(BATCHES, key=key), len(ids)) == (1, 1)
    hospital.assert_each_answered_once(hospital.of_batch(ids.pop(), SIZE))


def test_postgres_killed_while_jobs_run(system: System, hospital: Hospital) -> None:
    ids = hospital.ids(40)
    until(lambda: hospital.running(ids))
    system.postgres.kill()
    system.postgres.start()
    system.postgres.wait_ready()
    hospital.assert_each_answered_once(ids)


def test_postgres_connections_reset_while_jobs_run(system: System, hospital: Hospital) -> None:
    ids = hospital.ids(40)
    while not hospital.all_ended(ids):
        system.proxies["postgres"].reset()
        threading.Event().wait(0.3)
    hospital.assert_each_answered_once(ids)


def test_a_postgres_that_hangs_for_longer_than_a_lease(system: System, hospital: Hospital) -> None:
    ids = hospital.ids(40)
    until(lambda: hospital.running(ids))
    system.proxies["postgres"].black_hole()
    threading.Event().wait(8)
    system.proxies["postgres"].mend()
    hospital.assert_each_answered_once(ids)
