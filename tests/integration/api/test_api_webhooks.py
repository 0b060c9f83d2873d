"""Webhook endpoints and their deliveries, and the destinations that are refused."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Delivery, DeliveryState, Event, WebhookEndpoint
from shared.keys import Scope
from shared.webhooks.destinations import is_allowed
from tests.support.api import Caller, MakeApp, json_of, new_key, problem_of, work

URL = "http://127.0.0.1:9/hook"
ENDPOINTS = "/v1/webhook-endpoints"
NOT_PUBLIC = [
    "127.0.0.1",
    "10.0.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "224.0.0.1",
    "0.0.0.0",  # noqa: S104 - an address to refuse, not to bind
    "255.255.255.255",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.215.14",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2001::1",
    "2002:7f00:1::",
    "fe80::1",
    "fec0::1",
    "fd00::1",
    "ff02::1",
]


def create(caller: Caller, **fields: Any) -> dict[str, Any]:
    body = {"url": URL, "events": ["*"]} | fields
    endpoint: dict[str, Any] = json_of(caller.post(ENDPOINTS, json=body), 201)
    return endpoint


def without(endpoint: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in endpoint.items() if name not in names}


def test_an_endpoint_shows_its_secret_once(north: Caller) -> None:
    response = north.post(ENDPOINTS, json={"url": URL, "events": ["job.failed"], "description": "on call"})
    endpoint = json_of(response, 201)
    assert response.headers["Location"] == f"{ENDPOINTS}/{endpoint['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert endpoint["secret"].startswith("whsec_")
    assert (endpoint["url"], endpoint["events"], endpoint["description"]) == (URL, ["job.failed"], "on call")
    assert (endpoint["enabled"], endpoint["disabled_reason"]) == (True, None)
    shown = without(endpoint, "secret")
    assert json_of(north.get(f"{ENDPOINTS}/{endpoint['id']}")) == shown
    assert json_of(north.get(ENDPOINTS)) == {"object": "list", "data": [shown], "next_cursor": None}


def test_a_request_that_is_sent_again_shows_no_secret(north: Caller, clean_database: Database) -> None:
    asked = {"json": {"url": URL, "events": ["*"]}, "headers": {"Idempotency-Key": "8e03978e"}}
    endpoint = json_of(north.post(ENDPOINTS, **asked), 201)
    colleague = Caller(north.client, new_key(clean_database, Scope.WEBHOOKS_MANAGE))
    for caller in (north, colleague):
        again = caller.post(ENDPOINTS, **asked)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert json_of(again, 201) == endpoint | {"secret": None}


def test_endpoints_are_listed_by_page_and_by_tenant(north: Caller, south: Caller) -> None:
    made = [create(north)["id"] for _ in range(3)]
    create(south)
    first = json_of(north.get(f"{ENDPOINTS}?limit=2"))
    second = json_of(north.get(f"{ENDPOINTS}?limit=2&cursor={first['next_cursor']}"))
    assert [endpoint["id"] for endpoint in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None


def test_a_tenant_has_so_many_endpoints_and_no_more(make_app: MakeApp, clean_database: Database) -> None:
    client = make_app(max_webhook_endpoints=2).test_client()
    north, south = (Caller(client, new_key(clean_database, tenant=name)) for name in ("north", "south"))
    first = create(north)
    create(north)
    problem = problem_of(north.post(ENDPOINTS, json={"url": URL, "events": ["*"]}), 409, "too-many-endpoints")
    assert problem["detail"] == "a tenant has 2 webhook endpoints at most"
    create(south)
    assert north.call("DELETE", f"{ENDPOINTS}/{first['id']}").status_code == 204
    create(north)


def test_an_endpoint_is_changed_field_by_field(north: Caller) -> None:
    endpoint = create(north)
    path = f"{ENDPOINTS}/{endpoint['id']}"
    off = json_of(north.call("PATCH", path, json={"enabled": False}))
    assert (off["enabled"], off["disabled_reason"]) == (False, "disabled by request")
    on = json_of(north.call("PATCH", path, json={"enabled": True, "events": ["test", "batch.completed"]}))
    assert (on["enabled"], on["disabled_reason"], on["events"]) == (True, None, ["test", "batch.completed"])
    moved = json_of(north.call("PATCH", path, json={"url": f"{URL}/2", "description": "new"}))
    assert without(moved, "url", "description") == without(on, "url", "description")
    assert json_of(north.get(path)) == moved


def test_a_new_secret_takes_over_and_the_old_one_signs_on(north: Caller, clean_database: Database) -> None:
    endpoint = create(north)
    response = north.post(f"{ENDPOINTS}/{endpoint['id']}/rotate-secret")
    rotated = json_of(response)
    assert response.headers["Cache-Control"] == "no-store"
    assert rotated["secret"] != endpoint["secret"]
    assert without(rotated, "secret") == without(endpoint, "secret")
    with clean_database.transaction() as session:
        row = session.get_one(WebhookEndpoint, endpoint["id"])
        assert (row.secret, row.previous_secret) == (rotated["secret"], endpoint["secret"])
        assert session.scalar(sa.select(WebhookEndpoint.previous_secret_until > sa.func.now()))


def test_a_deleted_endpoint_is_gone_with_its_deliveries(north: Caller, clean_database: Database) -> None:
    endpoint = create(north)
    delivery = json_of(north.post(f"{ENDPOINTS}/{endpoint['id']}/test"), 202)
    assert north.call("DELETE", f"{ENDPOINTS}/{endpoint['id']}").status_code == 204
    problem_of(north.get(f"{ENDPOINTS}/{endpoint['id']}"), 404, "not-found")
    problem_of(north.call("DELETE", f"{ENDPOINTS}/{endpoint['id']}"), 404, "not-found")
    problem_of(north.post(f"/v1/deliveries/{delivery['id']}/redeliver"), 404, "not-found")
    north.submit()
    work(clean_database)


def test_a_test_event_goes_to_its_endpoint_alone(north: Caller) -> None:
    endpoint, other = create(north, events=["job.failed"]), create(north)
    delivery = json_of(north.post(f"{ENDPOINTS}/{endpoint['id']}/test"), 202)
    assert (delivery["object"], delivery["type"], delivery["state"]) == ("delivery", "test", "pending")
    assert delivery["event_id"].startswith("msg_")
    assert delivery["attempts"] == []
    assert json_of(north.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries"))["data"] == [delivery]
    assert json_of(north.get(f"{ENDPOINTS}/{other['id']}/deliveries"))["data"] == []


def test_deliveries_follow_the_subscriptions(north: Caller, clean_database: Database) -> None:
    everything, failures = create(north), create(north, events=["job.failed"])
    off = create(north)
    north.call("PATCH", f"{ENDPOINTS}/{off['id']}", json={"enabled": False})
    for _ in range(3):
        north.submit()
    work(clean_database)
    path = f"{ENDPOINTS}/{everything['id']}/deliveries"
    first = json_of(north.get(f"{path}?limit=2"))
    second = json_of(north.get(f"{path}?limit=2&cursor={first['next_cursor']}"))
    sent = first["data"] + second["data"]
    assert [delivery["type"] for delivery in sent] == ["job.succeeded"] * 3
    assert [delivery["id"] for delivery in sent] == sorted((delivery["id"] for delivery in sent), reverse=True)
    for endpoint in (failures, off):
        assert json_of(north.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries"))["data"] == []


def delivered(database: Database) -> None:
    """As the delivery worker: whatever is under way has arrived."""
    with database.transaction() as session:
        arrived = {"state": DeliveryState.DELIVERED, "finished_at": sa.func.now(), "next_attempt_at": None}
        session.execute(sa.update(Delivery).values(attempt_count=3, **arrived))


def test_an_event_is_sent_again_with_the_same_id(north: Caller, clean_database: Database) -> None:
    endpoint = create(north)
    delivery = json_of(north.post(f"{ENDPOINTS}/{endpoint['id']}/test"), 202)
    again = f"/v1/deliveries/{delivery['id']}/redeliver"
    delivered(clean_database)
    redelivered = json_of(north.post(again), 202)
    assert (redelivered["id"], redelivered["event_id"]) == (delivery["id"], delivery["event_id"])
    assert (redelivered["state"], redelivered["finished_at"]) == ("pending", None)
    assert redelivered["next_attempt_at"]
    with clean_database.transaction() as session:
        assert session.get_one(Delivery, delivery["id"]).round_start == 3


def test_a_pending_delivery_is_sent_now(north: Caller, clean_database: Database) -> None:
    endpoint = create(north)
    delivery = json_of(north.post(f"{ENDPOINTS}/{endpoint['id']}/test"), 202)
    later = sa.update(Delivery).values(next_attempt_at=sa.func.now() + timedelta(hours=5), attempt_count=4)
    due = sa.select(Delivery.round_start).where(Delivery.next_attempt_at <= sa.func.now())
    with clean_database.transaction() as session:
        session.execute(later)
    assert json_of(north.post(f"/v1/deliveries/{delivery['id']}/redeliver"), 202)["state"] == "pending"
    with clean_database.transaction() as session:
        assert session.scalars(due).all() == [4]
        session.execute(later.values(lease_token="a worker sends it at this moment"))
    json_of(north.post(f"/v1/deliveries/{delivery['id']}/redeliver"), 202)
    with clean_database.transaction() as session:
        assert session.scalars(due).all() == []


def test_an_endpoint_says_whether_its_events_carry_labels(north: Caller) -> None:
    assert create(north)["include_labels"] is False
    endpoint = create(north, include_labels=True)
    assert json_of(north.get(f"{ENDPOINTS}/{endpoint['id']}"))["include_labels"] is True


def test_a_disabled_endpoint_is_sent_nothing(north: Caller, clean_database: Database) -> None:
    endpoint = create(north)
    delivery = json_of(north.post(f"{ENDPOINTS}/{endpoint['id']}/test"), 202)
    delivered(clean_database)
    north.call("PATCH", f"{ENDPOINTS}/{endpoint['id']}", json={"enabled": False})
    problem_of(north.post(f"{ENDPOINTS}/{endpoint['id']}/test"), 409, "conflict")
    problem_of(north.post(f"/v1/deliveries/{delivery['id']}/redeliver"), 409, "conflict")


@pytest.mark.parametrize(
    ("wrong", "body"),
    [
        ("url", {"url": f"{URL}\0"}),
        ("url", {"url": f"{URL}/a b"}),
        ("url", {"url": "https://[::1"}),
        ("url", {"url": "https://ä.example"}),
        ("url", {"url": f"{URL}/{'a' * 2000}"}),
        ("url", {"url": 7}),
        ("description", {"description": "\0"}),
        ("description", {"description": "\ud800"}),
        ("description", {"description": "x" * 201}),
        ("events", {"events": []}),
        ("secret", {"secret": "whsec_mine"}),
    ],
)
def test_a_wrong_field_is_named(wrong: str, body: dict[str, Any], north: Caller) -> None:
    path = f"{ENDPOINTS}/{create(north)['id']}"
    for answer in (
        north.post(ENDPOINTS, json={"url": URL, "events": ["*"]} | body),
        north.call("PATCH", path, json=body),
    ):
        body_of = problem_of(answer, 422, "invalid-request")
        assert [error["field"] for error in body_of["errors"]] == [wrong]


@pytest.mark.parametrize("events", [["job.exploded"], ["*", "nothing"], [None], "*"])
def test_unknown_events_are_refused(events: Any, north: Caller) -> None:
    problem_of(north.post(ENDPOINTS, json={"url": URL, "events": events}), 422, "invalid-request")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_json_is_unsupported(content_type: str, north: Caller) -> None:
    answer = north.post(ENDPOINTS, data=b'{"url": "https://example.org"}', content_type=content_type)
    problem_of(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public_are_not_allowed(address: str) -> None:
    assert not is_allowed(ip_address(address), ())


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(ip_address(address), ())


def test_the_operator_may_name_a_network() -> None:
    inside = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert is_allowed(ip_address("10.1.2.3"), inside)
    assert is_allowed(ip_address("fd00::1"), inside)
    assert not is_allowed(ip_address("10.2.0.1"), inside)


@pytest.fixture
def strict(make_app: MakeApp, clean_database: Database) -> Caller:
    """A hospital of a service with the webhook settings of production."""
    app = make_app(webhook_allow_http=False, webhook_allowed_networks=())
    return Caller(app.test_client(), new_key(clean_database))


@pytest.mark.parametrize(
    "url",
    [f"https://[{address}]/" if ":" in address else f"https://{address}/" for address in NOT_PUBLIC]
    + [
        "http://93.184.215.14/",
        "ftp://93.184.215.14/",
        "93.184.215.14",
        "https://",
        "https://user:password@93.184.215.14/",
        "https://93.184.215.14:99999/",
        "https://localhost/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://no-such-host.invalid/",
        "https://" + "a" * 64 + ".invalid/",
    ],
)
def test_destinations_that_are_not_public_are_refused(url: str, strict: Caller) -> None:
    problem_of(strict.post(ENDPOINTS, json={"url": url, "events": ["*"]}), 422, "webhook-destination-refused")
    kept = create(strict, url="https://93.184.215.14/hook")
    path = f"{ENDPOINTS}/{kept['id']}"
    problem_of(strict.call("PATCH", path, json={"url": url}), 422, "webhook-destination-refused")
    assert json_of(strict.get(path)) == without(kept, "secret")


def redone(database: Database) -> dict[str | None, DeliveryState]:
    """The deliveries' states, by the jobs that they tell of."""
    with database.transaction() as session:
        rows = session.execute(sa.select(Event.job_id, Delivery.state).join(Event, Event.id == Delivery.event_id))
        return {row[0]: row[1] for row in rows}


def test_a_replay_sends_what_was_missed_since_a_time(north: Caller, clean_database: Database) -> None:
    endpoint = create(north, events=["job.succeeded"])
    path = f"{ENDPOINTS}/{endpoint['id']}"
    delivered, failed = north.submit()["id"], north.submit()["id"]
    work(clean_database)
    with clean_database.transaction() as session:
        for job_id, state in ((delivered, DeliveryState.DELIVERED), (failed, DeliveryState.FAILED)):
            (delivery,) = session.scalars(sa.select(Delivery).join(Event).where(Event.job_id == job_id))
            delivery.state, delivery.finished_at, delivery.next_attempt_at = state, sa.func.now(), None
            delivery.attempt_count = 3
    north.call("PATCH", path, json={"enabled": False})
    missed, cancelled = north.submit()["id"], north.submit()["id"]
    json_of(north.post(f"/v1/jobs/{cancelled}/cancel"))  # it has not asked for that
    work(clean_database)
    problem_of(north.post(f"{path}/replay", json={"since": "2020-01-01T00:00:00Z"}), 409, "conflict")
    json_of(north.call("PATCH", path, json={"enabled": True}))
    assert json_of(north.post(f"{path}/replay", json={"since": "2100-01-01T00:00:00Z"}), 202)["scheduled"] == 0
    found = json_of(north.post(f"{path}/replay", json={"since": endpoint["created_at"]}), 202)
    assert (found["scheduled"], found["more"]) == (2, False)
    assert redone(clean_database) == {
        delivered: DeliveryState.DELIVERED,
        failed: DeliveryState.PENDING,
        missed: DeliveryState.PENDING,
    }
    again = {"since": endpoint["created_at"], "delivered": True}
    assert json_of(north.post(f"{path}/replay", json=again), 202)["scheduled"] == 1
    with clean_database.transaction() as session:
        assert set(session.execute(sa.select(Delivery.attempt_count - Delivery.round_start)).scalars()) == {0}


@pytest.mark.parametrize(
    "since", ["yesterday", "2020-01-01", "2020-01-01T00:00:00", "2020-01-01T00:00Z", "0", 0, 1.5, True, None]
)
def test_a_replay_says_since_when_with_a_time_zone(since: object, north: Caller) -> None:
    endpoint = create(north)
    response = north.post(f"{ENDPOINTS}/{endpoint['id']}/replay", json={"since": since})
    assert [error["pointer"] for error in problem_of(response, 422, "invalid-request")["errors"]] == ["#/since"]


@pytest.mark.parametrize("delivered", [0, 1, "yes", "true", None])
def test_a_replay_of_what_was_delivered_is_asked_for_by_a_boolean(delivered: object, north: Caller) -> None:
    endpoint = create(north)
    asked = {"since": "2020-01-01T00:00:00Z", "delivered": delivered}
    response = north.post(f"{ENDPOINTS}/{endpoint['id']}/replay", json=asked)
    assert [error["pointer"] for error in problem_of(response, 422, "invalid-request")["errors"]] == ["#/delivered"]


def test_another_hospitals_endpoint_is_not_replayed(north: Caller, south: Caller) -> None:
    path = f"{ENDPOINTS}/{create(north)['id']}/replay"
    problem_of(south.post(path, json={"since": "2020-01-01T00:00:00Z"}), 404, "not-found")
