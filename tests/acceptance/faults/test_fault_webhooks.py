"""Receivers fail, the deliverer dies: every event arrives, always with the same id, and is noted as delivered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client import Client
from standalone.services import HOST
from tests.chaos.proxy import Proxy
from tests.chaos.receiver import Receiver
from tests.chaos.system import System
from tests.support.faults import Hospital
from tests.support.waiting import EVENT_SECONDS, until

OF_JOB = "FROM deliveries d JOIN events e ON e.id = d.event_id WHERE e.job_id = :job"
ATTEMPTS = f"SELECT max(attempt_count) {OF_JOB}"
DELIVERED = f"SELECT count(*) {OF_JOB} AND d.state = 'delivered'"


@pytest.fixture
def client(hospital: Hospital, system: System) -> Iterator[Client]:  # noqa: ARG001 - it must be whole
    with system.client() as client:
        yield client


@pytest.fixture
def receiver(client: Client) -> Iterator[Receiver]:
    """A subscribed receiver."""
    with Receiver("receiver") as receiver:
        endpoint = client.create_endpoint(receiver.url, ["*"], "receiver")
        receiver.secret = endpoint.secret or ""
        yield receiver
        client.delete_endpoint(endpoint.id)


@pytest.fixture
def line(client: Client) -> Iterator[tuple[Receiver, Proxy]]:
    """A subscribed receiver, and the proxy through which it is reached."""
    with Receiver("receiver") as receiver, Proxy("receiver", receiver.port) as proxy:
        endpoint = client.create_endpoint(f"http://{HOST}:{proxy.port}/thoraq", ["*"], "proxied")
        receiver.secret = endpoint.secret or ""
        yield receiver, proxy
        client.delete_endpoint(endpoint.id)


def assert_delivered(hospital: Hospital, receiver: Receiver, job: str, times: int = 1) -> None:
    """The end of the job was told, so many times, under one id, and there is one delivery."""
    until(lambda: hospital.count(DELIVERED, job=job))
    assert hospital.count(f"SELECT count(*) {OF_JOB}", job=job) == 1
    (event,) = receiver.told[job]
    assert receiver.accepted[event] == times
    assert receiver.unverified == 0


@pytest.mark.parametrize("mode", ["500", "hang", "down", "redirect"])
def test_a_receiver_that_fails(hospital: Hospital, receiver: Receiver, mode: str) -> None:
    with Receiver("elsewhere") as elsewhere:
        receiver.elsewhere = elsewhere.url
        receiver.fail(mode)
        (job,) = hospital.ids(1)
        until(lambda: hospital.count(ATTEMPTS, job=job) >= 2)
        assert hospital.count(DELIVERED, job=job) == 0
        receiver.recover()
        assert_delivered(hospital, receiver, job)
        assert elsewhere.unverified == 0, "a redirect was followed"


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_deliverer_killed_at_the_send(
    system: System, hospital: Hospital, line: tuple[Receiver, Proxy], before: bool
) -> None:
    receiver, proxy = line
    caught = proxy.trap(b"POST /thoraq", before=before)
    (job,) = hospital.ids(1)
    assert caught.wait(EVENT_SECONDS), "nothing was sent"
    if not before:
        until(lambda: receiver.told.get(job))  # it has it, and the deliverer does not know
    system.children["deliver"].kill()
    proxy.mend()
    assert hospital.count(ATTEMPTS, job=job) == 0
    system.children["deliver"].start()
    assert_delivered(hospital, receiver, job, times=1 if before else 2)
