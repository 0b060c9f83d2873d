"""Webhooks out, to a real HTTP receiver: signed, retried by the schedule, recorded, and safe to interrupt."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from httpcore import ConnectError
from standardwebhooks.webhooks import Webhook

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import (
    AuditEntry,
    Batch,
    Delivery,
    DeliveryAttempt,
    DeliveryState,
    EventType,
    Job,
    WebhookEndpoint,
)
from shared.jobs import states
from shared.webhooks.outbox import record_event, schedule
from shared.webhooks.signing import new_secret
from tests.support.rows import POLICY, add_bundle, add_endpoint, add_job, add_tenant, answer, take
from tests.support.servers.webhook_receiver import Receiver
from worker.deliver.handler import Deliver
from worker.deliver.receiver_responses import reason_of, refusal_of


@pytest.fixture
def deliver(settings: Settings, clean_database: Database) -> Iterator[Deliver]:
    """A deliverer with three retries, due at once."""
    quick = settings.model_copy(update={"webhook_retry_seconds": (0.0, 0.0, 0.0), "webhook_timeout_seconds": 2.0})
    handler = Deliver(quick, clean_database)
    yield handler
    handler.close()


def scheduled(database: Database, url: str) -> str:
    """A test event for a new endpoint; the delivery's id."""
    with database.transaction() as session:
        endpoint = add_endpoint(session, add_tenant(session), url)
        event = record_event(session, endpoint.tenant_id, EventType.TEST, {"hello": "world"})
        return schedule(session, event, endpoint).id


def outcome(database: Database, delivery_id: str) -> tuple[DeliveryState, list[tuple[int | None, str | None]]]:
    """The delivery's state and what each attempt met."""
    with database.transaction() as session:
        attempts = session.scalars(
            sa.select(DeliveryAttempt)
            .where(DeliveryAttempt.delivery_id == delivery_id)
            .order_by(DeliveryAttempt.number)
        )
        seen = [(attempt.status_code, attempt.error) for attempt in attempts]
        return session.get_one(Delivery, delivery_id).state, seen


def test_a_consumer_verifies_with_the_standard_library(
    deliver: Deliver, receiver: Receiver, clean_database: Database
) -> None:
    with clean_database.transaction() as session:
        add_bundle(session)
        tenant = add_tenant(session)
        secret = add_endpoint(session, tenant, receiver.url).secret
        job_id = add_job(session, tenant).id
    with clean_database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    deliver.drain(threading.Event())
    ((headers, body),) = receiver.requests
    event = Webhook(secret).verify(body, headers)
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == job_id


def test_failures_are_retried_with_the_same_id_until_one_is_accepted(
    deliver: Deliver, receiver: Receiver, clean_database: Database
) -> None:
    receiver.replies = [500, 503, 200]
    delivery_id = scheduled(clean_database, receiver.url)
    deliver.drain(threading.Event())
    assert outcome(clean_database, delivery_id) == (
        DeliveryState.DELIVERED,
        [(500, refusal_of(500)), (503, refusal_of(503)), (200, None)],
    )
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1


def test_the_schedule_has_an_end(deliver: Deliver, receiver: Receiver, clean_database: Database) -> None:
    receiver.replies = [500]
    delivery_id = scheduled(clean_database, receiver.url)
    deliver.drain(threading.Event())
    assert outcome(clean_database, delivery_id) == (
        DeliveryState.FAILED,
        [(500, "the receiver answered 500 Internal Server Error")] * 4,
    )


def test_410_disables_the_endpoint(deliver: Deliver, receiver: Receiver, clean_database: Database) -> None:
    receiver.replies = [410]
    delivery_id = scheduled(clean_database, receiver.url)
    deliver.drain(threading.Event())
    assert outcome(clean_database, delivery_id) == (DeliveryState.FAILED, [(410, "the receiver answered 410 Gone")])
    with clean_database.transaction() as session:
        endpoint = session.scalars(sa.select(WebhookEndpoint)).one()
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, "the receiver answered 410 Gone")


def test_an_endpoint_that_fails_for_days_is_disabled_and_says_why(
    deliver: Deliver, receiver: Receiver, clean_database: Database
) -> None:
    receiver.replies = [500, 500, 200, 500]
    scheduled(clean_database, receiver.url)
    deliver.drain(threading.Event())
    with clean_database.transaction() as session:
        endpoint = session.scalars(sa.select(WebhookEndpoint)).one()
        assert endpoint.failing_since is None  # the third attempt got through
        first, second = (
            schedule(session, record_event(session, endpoint.tenant_id, EventType.TEST, {}), endpoint).id
            for _ in range(2)
        )
        endpoint.failing_since = sa.func.now() - timedelta(days=6)
    deliver.drain(threading.Event())
    with clean_database.transaction() as session:
        endpoint = session.scalars(sa.select(WebhookEndpoint)).one()
        assert (endpoint.enabled, endpoint.disabled_reason) == (False, "nothing could be delivered for 5 days")
        (act,) = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "webhook.disable"))
        assert (act.tenant_id, act.actor, act.subject) == (endpoint.tenant_id, "deliverer", endpoint.id)
    for delivery_id in (first, second):
        assert outcome(clean_database, delivery_id)[0] is DeliveryState.FAILED


def test_what_the_receiver_says_is_kept(deliver: Deliver, receiver: Receiver, clean_database: Database) -> None:
    receiver.replies, receiver.body = [500], "no such event: \0\x1b[31m\u00fc " + "x" * 2000
    delivery_id = scheduled(clean_database, receiver.url)
    deliver.drain(threading.Event())
    with clean_database.transaction() as session:
        heads = set(session.scalars(sa.select(DeliveryAttempt.response_head)))
    (head,) = heads
    assert head is not None
    assert head.startswith("no such event: \ufffd\ufffd[31m\u00fc x")
    assert len(head) == 1000
    assert outcome(clean_database, delivery_id)[0] is DeliveryState.FAILED


def test_a_receiver_says_when_it_wants_to_be_asked_again(
    settings: Settings, receiver: Receiver, clean_database: Database
) -> None:
    receiver.replies, receiver.retry_after = [503], "120"
    handler = Deliver(settings.model_copy(update={"webhook_retry_seconds": (5, 300, 300)}), clean_database)
    delivery_id = scheduled(clean_database, receiver.url)
    handler.drain(threading.Event())
    handler.close()
    with clean_database.transaction() as session:
        wait = sa.extract("epoch", Delivery.next_attempt_at - sa.func.now())
        left = session.scalar(sa.select(wait).where(Delivery.id == delivery_id))
    assert left is not None
    assert 20 < left <= 120


@pytest.mark.parametrize("labels", [False, True])
def test_events_name_what_they_are_of(
    labels: bool,
    deliver: Deliver,
    receiver: Receiver,
    clean_database: Database,
) -> None:
    with clean_database.transaction() as session:
        add_bundle(session)
        tenant = add_tenant(session)
        add_endpoint(session, tenant, receiver.url).include_labels = labels
        job = add_job(session, tenant)
        batch = Batch(
            id="bat_1", tenant_id=tenant.id, external_id="night", total=1, queued=1, received_at=sa.func.now()
        )
        session.add(batch)
        session.flush()
        mine = {"batch_id": "bat_1", "item": 7, "custom_id": "line-7", "external_id": "A-1", "extra": {"a": 1}}
        session.execute(sa.update(Job).where(Job.id == job.id).values(**mine))
    with clean_database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    deliver.drain(threading.Event())
    events = {event["type"]: event["data"] for event in (json.loads(body) for _, body in receiver.requests)}
    job_data = events["job.succeeded"]
    assert (job_data["batch_id"], job_data["item"], job_data["custom_id"]) == ("bat_1", 7, "line-7")
    for data, label in ((job_data, "A-1"), (events["batch.completed"], "night")):
        assert data.get("external_id") == (label if labels else None)
        assert ("external_id" in data) is labels
        assert "metadata" not in data


def test_a_redirect_is_not_followed(deliver: Deliver, receiver: Receiver, clean_database: Database) -> None:
    receiver.replies = [302]
    delivery_id = scheduled(clean_database, receiver.url)
    deliver.drain(threading.Event())
    assert outcome(clean_database, delivery_id)[1][0] == (
        302,
        "the receiver answered 302, and redirects are not followed: change the endpoint's URL",
    )
    assert len(receiver.requests) == 4


def test_a_receiver_that_is_away_is_an_attempt_too(deliver: Deliver, clean_database: Database) -> None:
    delivery_id = scheduled(clean_database, "http://127.0.0.1:9/nobody")
    deliver.drain(threading.Event())
    assert outcome(clean_database, delivery_id) == (DeliveryState.FAILED, [(None, reason_of(ConnectError()))] * 4)


def test_the_address_is_checked_again_when_connecting(
    settings: Settings, receiver: Receiver, clean_database: Database
) -> None:
    delivery_id = scheduled(clean_database, receiver.url)
    strict = settings.model_copy(update={"webhook_allowed_networks": (), "webhook_retry_seconds": ()})
    handler = Deliver(strict, clean_database)
    handler.drain(threading.Event())
    handler.close()
    assert receiver.requests == []
    state, ((status, error),) = outcome(clean_database, delivery_id)
    assert (state, status) == (DeliveryState.FAILED, None)
    assert error == "the URL's host has an address that is not public"


def test_after_a_rotation_both_secrets_sign(deliver: Deliver, receiver: Receiver, clean_database: Database) -> None:
    scheduled(clean_database, receiver.url)
    with clean_database.transaction() as session:
        endpoint = session.scalars(sa.select(WebhookEndpoint)).one()
        old, new = endpoint.secret, new_secret()
        endpoint.previous_secret, endpoint.secret = old, new
        endpoint.previous_secret_until = sa.func.now() + sa.text("interval '1 hour'")
    deliver.drain(threading.Event())
    ((headers, body),) = receiver.requests
    assert Webhook(old).verify(body, headers) == Webhook(new).verify(body, headers)


def test_a_deliverer_that_died_in_between_sends_again_with_the_same_id(
    deliver: Deliver, receiver: Receiver, clean_database: Database, settings: Settings
) -> None:
    delivery_id = scheduled(clean_database, receiver.url)
    dead = Deliver(settings, clean_database)
    (due,) = dead.take(16, [])  # claimed and sent, and never recorded
    dead.send(due)
    dead.close()
    deliver.drain(threading.Event())
    assert len(receiver.requests) == 1  # its claim still holds
    with clean_database.transaction() as session:
        session.execute(sa.update(Delivery).values(next_attempt_at=sa.func.now()))
    deliver.drain(threading.Event())
    assert outcome(clean_database, delivery_id)[0] is DeliveryState.DELIVERED
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert len(receiver.requests) == 2


def test_a_slow_claim_cannot_record_over_the_one_that_took_over(
    deliver: Deliver, receiver: Receiver, clean_database: Database
) -> None:
    delivery_id = scheduled(clean_database, receiver.url)
    (slow,) = deliver.take(16, [])
    with clean_database.transaction() as session:
        session.execute(sa.update(Delivery).values(next_attempt_at=sa.func.now()))
    deliver.drain(threading.Event())
    assert deliver.record(slow, deliver.send(slow)) == "lease_lost"
    assert outcome(clean_database, delivery_id) == (DeliveryState.DELIVERED, [(204, None)])


def test_a_receiver_that_hangs_holds_up_nobody_else(
    deliver: Deliver, receiver: Receiver, clean_database: Database
) -> None:
    hanging = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    slow = f"http://127.0.0.1:{hanging.getsockname()[1]}/hook"
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        good, bad = add_endpoint(session, tenant, receiver.url), add_endpoint(session, tenant, slow)
        for _ in range(40):
            event = record_event(session, tenant.id, EventType.TEST, {})
            schedule(session, event, good)
            schedule(session, event, bad)
    stopping = threading.Event()
    thread = threading.Thread(target=deliver.drain, args=(stopping,))
    thread.start()
    while len(receiver.requests) < 40:
        assert thread.is_alive()
        time.sleep(0.01)
    with clean_database.transaction() as session:
        met = session.scalars(
            sa.select(DeliveryAttempt.status_code)
            .join(Delivery, Delivery.id == DeliveryAttempt.delivery_id)
            .where(Delivery.endpoint_id == bad.id)
        ).all()
    stopping.set()
    thread.join()
    hanging.close()
    assert len(met) <= 8  # the good one's forty went out in the time of one or two that hang


def test_a_tenant_of_many_slow_receivers_keeps_no_other_tenant_waiting(
    deliver: Deliver, receiver: Receiver, clean_database: Database
) -> None:
    hanging = socket.create_server(("127.0.0.1", 0), backlog=200)  # takes connections, and never answers
    slow = f"http://127.0.0.1:{hanging.getsockname()[1]}/hook"
    with clean_database.transaction() as session:
        attacker, hospital = add_tenant(session, "attacker"), add_tenant(session, "hospital")
        event = record_event(session, attacker.id, EventType.TEST, {})
        for _ in range(100):
            schedule(session, event, add_endpoint(session, attacker, slow))
    stopping = threading.Event()
    thread = threading.Thread(target=deliver.drain, args=(stopping,))
    thread.start()
    while deliver.under_way == 0:
        assert thread.is_alive()
        time.sleep(0.01)
    assert deliver.under_way <= 8  # half of the threads
    with clean_database.transaction() as session:
        event = record_event(session, hospital.id, EventType.TEST, {})
        delivery = schedule(session, event, add_endpoint(session, hospital, receiver.url)).id
    while not receiver.requests:
        assert thread.is_alive()
        time.sleep(0.01)
    stopping.set()
    hanging.close()
    thread.join()
    assert outcome(clean_database, delivery)[0] is DeliveryState.DELIVERED


def test_deliveries_that_are_due_are_taken_by_tenants_in_turn(deliver: Deliver, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        for name, endpoints in (("many", 60), ("few", 2)):
            tenant = add_tenant(session, name)
            event = record_event(session, tenant.id, EventType.TEST, {})
            for _ in range(endpoints):
                schedule(session, event, add_endpoint(session, tenant, "http://127.0.0.1:9/hook"))
    taken = Counter(due.tenant_id for due in deliver.take(4, []))
    assert sorted(taken.values()) == [2, 2]
