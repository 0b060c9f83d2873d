"""The receiver counts what it verified and accepted, and fails as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from shared.webhooks.signing import new_secret, sign
from tests.chaos.receiver import Receiver

BODY = json.dumps({"type": "job.succeeded", "data": {"id": "job_1"}})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver("flaky") as receiver:
        receiver.secret = new_secret()
        yield receiver


def send(receiver: Receiver, webhook_id: str = "msg_1", secret: str | None = None) -> int:
    """The status that one delivery is answered with."""
    headers = sign([secret or receiver.secret], webhook_id, datetime.now(UTC), BODY)
    return httpx.post(receiver.url, content=BODY, headers=headers, timeout=1, trust_env=False).status_code


def test_it_counts_what_it_accepted(receiver: Receiver) -> None:
    assert [send(receiver), send(receiver), send(receiver, "msg_2")] == [204, 204, 204]
    assert receiver.accepted == {"msg_1": 2, "msg_2": 1}
    assert receiver.told == {"job_1": {"msg_1", "msg_2"}}


def test_it_counts_signatures_that_do_not_hold(receiver: Receiver) -> None:
    assert send(receiver, secret=new_secret()) == 400
    assert (receiver.unverified, sum(receiver.accepted.values())) == (1, 0)


@pytest.mark.parametrize(("mode", "error"), [("hang", httpx.ReadTimeout), ("down", httpx.ConnectError)])
def test_without_an_answer_nothing_is_accepted(receiver: Receiver, mode: str, error: type[Exception]) -> None:
    receiver.fail(mode)
    with pytest.raises(error):
        send(receiver)
    receiver.recover()
    assert send(receiver, "msg_2") == 204
    assert receiver.accepted == {"msg_2": 1}


def test_an_answer_of_500_is_no_acceptance(receiver: Receiver) -> None:
    receiver.fail("500")
    assert send(receiver) == 500
    assert not receiver.accepted
