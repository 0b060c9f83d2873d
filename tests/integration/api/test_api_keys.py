"""Keys over HTTP, the record of what was done, and which model answers."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from api.http.services import EXTENSION
from shared import bundle_registry
from shared.db.engine import Database
from shared.db.tables import ApiKey, AuditEntry, ModelBundle
from shared.inference import bundle_store
from shared.keys import Scope
from tests.support.api import PNG, Caller, MakeApp, fields_of, json_of, new_key, problem_of
from tests.support.bundles.tiny import write_bundle
from tests.support.openapi import Operation, operations
from tests.support.tenants import endpoint, key, open_study, owner_of

READER = {"name": "viewer", "scopes": ["jobs:read"]}


@pytest.fixture
def admin(app: Flask, clean_database: Database) -> Caller:
    """Somebody who has `admin` and nothing else."""
    return Caller(app.test_client(), new_key(clean_database, Scope.ADMIN))


def acts(database: Database) -> list[tuple[str, str]]:
    with database.transaction() as session:
        entries = session.execute(sa.select(AuditEntry.action, AuditEntry.subject).order_by(AuditEntry.id))
        return [(row.action, row.subject) for row in entries]


def test_a_new_key_is_shown_once_works_at_once_and_ends_when_it_is_revoked(
    make_app: MakeApp, clean_database: Database
) -> None:
    client = make_app(key_seconds=0).test_client()
    admin = Caller(client, new_key(clean_database, Scope.ADMIN))
    made = json_of(admin.post("/v1/keys", json=READER), 201)
    assert made["key"].startswith("tq_")
    assert made["key"][:8] == made["prefix"]
    reader = Caller(client, made["key"])
    json_of(reader.get("/v1/jobs"))
    problem_of(reader.send(PNG, modality="xray"), 403, "forbidden")
    shown = json_of(admin.get(f"/v1/keys/{made['id']}"))
    assert shown["last_used_at"] is not None
    assert "key" not in shown
    ended = json_of(admin.post(f"/v1/keys/{made['id']}/revoke"))
    problem_of(reader.get("/v1/jobs"), 401, "unauthenticated")
    assert ended["revoked_at"] is not None
    assert json_of(admin.get(f"/v1/keys/{made['id']}")) == ended
    assert json_of(admin.post(f"/v1/keys/{made['id']}/revoke")) == ended
    assert [action for action, subject in acts(clean_database) if subject == made["id"]] == ["key.create", "key.revoke"]


def test_a_repeated_request_gets_the_same_key_without_showing_it(admin: Caller, clean_database: Database) -> None:
    header = {"Idempotency-Key": "k"}
    first = admin.post("/v1/keys", json=READER, headers=header)
    again = admin.post("/v1/keys", json=READER, headers=header)
    assert json_of(again, 201) == {**json_of(first, 201), "key": None}
    assert again.headers["Idempotency-Replayed"] == "true"
    assert first.headers["Cache-Control"] == again.headers["Cache-Control"] == "no-store"
    with clean_database.transaction() as session:
        assert len(session.scalars(sa.select(ApiKey)).all()) == 2
    problem_of(admin.post("/v1/keys", json=READER | {"name": "x"}, headers=header), 422, "idempotency-key-reused")


def test_only_the_digest_of_a_key_is_kept(admin: Caller, clean_database: Database) -> None:
    made = json_of(admin.post("/v1/keys", json=READER), 201)
    with clean_database.transaction() as session:
        row = session.get_one(ApiKey, made["id"])
        assert row.hash == hashlib.sha256(made["key"].encode()).hexdigest()
        assert made["key"] not in str(vars(row))


def test_a_key_expires(admin: Caller) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    made = json_of(admin.post("/v1/keys", json=READER | {"expires_at": past}), 201)
    problem_of(Caller(admin.client, made["key"]).get("/v1/jobs"), 401, "unauthenticated")


def test_what_is_no_key_is_refused_field_by_field(admin: Caller) -> None:
    for wrong, field in (
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes.0"),
        ({"name": ""}, "name"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"tenant": "south"}, "tenant"),
    ):
        assert fields_of(admin.post("/v1/keys", json=READER | wrong)) == [field]


def test_nobody_gives_away_what_he_has_not(admin: Caller, clean_database: Database) -> None:
    asked = {"name": "x", "scopes": ["models:manage"]}
    problem_of(admin.post("/v1/keys", json=asked), 403, "forbidden")
    operator = Caller(admin.client, new_key(clean_database, Scope.ADMIN, Scope.MODELS_MANAGE))
    json_of(operator.post("/v1/keys", json=asked), 201)


def test_keys_are_listed_a_page_at_a_time(admin: Caller) -> None:
    for number in range(3):
        json_of(admin.post("/v1/keys", json=READER | {"name": str(number)}), 201)
    first = json_of(admin.get("/v1/keys?limit=2"))
    rest = json_of(admin.get(f"/v1/keys?limit=2&cursor={first['next_cursor']}"))
    assert [one["name"] for one in first["data"] + rest["data"]] == ["2", "1", "0", "test"]
    assert rest["next_cursor"] is None


def test_the_log_tells_who_did_what(north: Caller, clean_database: Database) -> None:
    job = north.submit()["id"]
    json_of(north.post(f"/v1/jobs/{job}/cancel"))
    (mine,) = json_of(north.get("/v1/audit?action=key.create"))["data"]
    entries = json_of(north.get(f"/v1/audit?subject={job}"))["data"]
    assert [(one["action"], one["actor"]) for one in entries] == [
        ("job.cancel", mine["subject"]),
        ("job.submit", mine["subject"]),
    ]
    first = json_of(north.get("/v1/audit?limit=2"))
    rest = json_of(north.get(f"/v1/audit?cursor={first['next_cursor']}"))
    assert [one["action"] for one in first["data"] + rest["data"]] == ["job.cancel", "job.submit", "key.create"]
    assert json_of(north.get("/v1/audit?actor=thoraq-admin"))["data"] == []
    assert acts(clean_database)


#: Operations that act on nothing which the log speaks of: bytes of which nobody has made a study yet.
UNLOGGED = {"/v1/uploads", "/v1/uploads/{upload_id}", "/v1/uploads/{upload_id}/complete"}


def test_every_operation_that_changes_something_is_in_the_log(north: Caller, clean_database: Database) -> None:
    """A new one without an entry fails here."""
    document: dict[str, Any] = json_of(north.client.get("/openapi.json"))
    bundle = put_bundle(north, clean_database)
    for operation in operations(document):
        if operation.method == "get" or operation.path in UNLOGGED:
            continue
        ids = things(north) | {"sha256": bundle}
        before = len(acts(clean_database))
        response = perform(north, operation, ids)
        assert response.status_code < 300, (operation.path, response.text)
        assert len(acts(clean_database)) == before + 1, operation.path


def things(caller: Caller) -> dict[str, str]:
    """Fresh ones, on which everything can be done."""
    made = endpoint(caller) | key(caller) | open_study(caller) | {"job": caller.submit()["id"]}
    made["batch"] = json_of(caller.send(PNG, path="/v1/batches", modality="xray"), 202)["id"]
    json_of(caller.post(f"/v1/uploads/{made['upload']}/complete"))
    with owner_of(caller) as database, database.transaction() as session:
        # What is under way cannot be sent again.
        session.execute(sa.text("UPDATE deliveries SET state = 'failed', finished_at = now(), next_attempt_at = NULL"))
    return {f"{name}_id": value for name, value in made.items()}


def perform(caller: Caller, operation: Operation, ids: dict[str, str]) -> TestResponse:
    """The operation in a way that succeeds."""
    path = operation.path.format(**ids)
    if operation.path in {"/v1/jobs", "/v1/studies"}:
        return caller.send(PNG, path=path, modality="xray")
    if operation.path.endswith("/images"):
        return caller.send(PNG, path=path, classifier=None)
    return caller.call(operation.method.upper(), path, **operation.body(ids))


def put_bundle(caller: Caller, database: Database) -> str:
    """A stored bundle's SHA-256."""
    service = caller.client.application.extensions[EXTENSION]
    bundle = write_bundle(service.settings.storage_dir.parent / "bundle")
    with database.transaction() as session:
        bundle_registry.register(session, bundle)
    bundle_store.push(bundle, service.storage)
    with database.transaction() as session:
        session.execute(sa.update(ModelBundle).values(stored=True))
    return bundle.sha256


def test_a_bundle_is_activated_by_those_who_may(north: Caller, admin: Caller, clean_database: Database) -> None:
    bundle = put_bundle(north, clean_database)
    problem_of(admin.post(f"/v1/models/{bundle}/activate"), 403, "forbidden")
    assert json_of(north.post(f"/v1/models/{bundle}/activate"))["active"] is True
    (shown,) = json_of(north.get("/v1/models"))["data"]
    assert shown["active"] is True
    assert acts(clean_database)[-1] == ("model.activate", bundle)


def test_what_cannot_be_activated_is_told(north: Caller, clean_database: Database) -> None:
    problem_of(north.post(f"/v1/models/{'0' * 64}/activate"), 404, "not-found")
    bundle = put_bundle(north, clean_database)
    with clean_database.transaction() as session:
        session.execute(sa.update(ModelBundle).values(stored=False))
    problem_of(north.post(f"/v1/models/{bundle}/activate"), 409, "conflict")
    with clean_database.transaction() as session:
        session.execute(sa.update(ModelBundle).values(stored=True))
    north.client.application.extensions[EXTENSION].storage.delete(f"models/{bundle}/head.json")
    problem_of(north.post(f"/v1/models/{bundle}/activate"), 409, "conflict")
