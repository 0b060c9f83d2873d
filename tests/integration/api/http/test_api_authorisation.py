"""Who may do what, tried on every operation that /openapi.json describes: a new route without protection fails here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from api.http.services import EXTENSION
from shared import keys
from shared.db.engine import Database
from shared.db.tables import Base
from shared.keys import Scope
from tests.support.api import Caller, MakeApp, json_of, new_key, problem_of
from tests.support.openapi import Operation, operations
from tests.support.tenants import UNKNOWN, world

#: Reachable without a key: they tell nothing of any hospital, or their signature is the authority.
PUBLIC = {
    "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/assets/<path:name>", "/problems",
    "/static/<path:filename>", "/", "/sign-in", "/sign-out", "/uploads/<string:upload_id>/content",
}  # fmt: skip


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An application that looks a key up once: what a request costs does not depend on when it comes."""
    return make_app(key_seconds=3600)


@pytest.fixture
def every(app: Flask) -> list[Operation]:
    """Every operation under /v1, those that remove something last."""
    document: dict[str, Any] = json_of(app.test_client().get("/openapi.json"))
    return sorted(operations(document), key=lambda operation: operation.method == "delete")


@pytest.fixture
def ids(north: Caller) -> dict[str, str]:
    """The ids of what north has, by the names that paths and bodies give them."""
    return world(north)


def unknown(ids: dict[str, str]) -> dict[str, str]:
    """Ids of the same kinds that nobody has."""
    return {name: re.sub(r"(?<=_).*", UNKNOWN, value) for name, value in ids.items()}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """What the application asks the database meanwhile."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        # How many jobs wait is looked at now and then, whoever asks for what.
        if "queue_lengths" not in statement:
            asked.append(statement)

    engine = app.extensions[EXTENSION].database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    yield asked
    sa.event.remove(engine, "before_cursor_execute", note)


def test_every_route_is_public_for_a_reason_or_under_v1_or_asks_to_sign_in(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        if rule.rule not in PUBLIC and not rule.rule.startswith("/v1/"):
            response = app.test_client().get(rule.rule.replace("<string:", "").replace(">", ""))
            assert response.status_code == 303, f"{rule.rule} answers {response.status_code} to a stranger"


@pytest.mark.parametrize("how", ["none", "unknown", "malformed", "another scheme", "revoked", "expired"])
def test_no_operation_answers_without_a_key_in_force(
    how: str, every: list[Operation], ids: dict[str, str], app: Flask, clean_database: Database
) -> None:
    expired = new_key(clean_database, tenant="north", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    revoked = new_key(clean_database, tenant="north")
    with clean_database.transaction() as session:
        found = keys.find(session, revoked)
        assert found is not None
        assert keys.revoke(session, found.id, "test")
    headers = {
        "none": {},
        "unknown": bearer("tq_" + "A" * 43),
        "malformed": bearer("tq_"),
        "another scheme": {"Authorization": f"Basic {revoked}"},
        "revoked": bearer(revoked),
        "expired": bearer(expired),
    }[how]
    for operation in every:
        problem_of(operation.call(app.test_client(), ids, headers), 401, "unauthenticated")


def test_every_operation_needs_the_scope_that_it_documents(
    every: list[Operation], ids: dict[str, str], app: Flask, clean_database: Database
) -> None:
    client = app.test_client()
    for scope in Scope:
        others = bearer(new_key(clean_database, *(set(Scope) - {scope, Scope.ADMIN})))
        alone = bearer(new_key(clean_database, scope))
        for operation in every:
            if operation.scope == scope:
                refused = problem_of(operation.call(client, unknown(ids), others), 403, "forbidden")
                assert scope.value in refused["detail"]
                assert operation.call(client, unknown(ids), alone).status_code not in {401, 403}, operation.path
    assert {operation.scope for operation in every} == set(Scope)


def test_an_admin_has_every_scope_of_its_tenant(
    every: list[Operation], ids: dict[str, str], app: Flask, clean_database: Database
) -> None:
    admin = bearer(new_key(clean_database, Scope.ADMIN))
    for operation in every:
        status = operation.call(app.test_client(), unknown(ids), admin).status_code
        # Model bundles answer for all hospitals: no hospital's admin chooses among them by that alone.
        assert (status == 403) == (operation.scope == Scope.MODELS_MANAGE), operation.path


def test_another_hospitals_ids_are_unknown_ones_to_every_operation(
    every: list[Operation], ids: dict[str, str], south: Caller, app: Flask
) -> None:
    """The same status, the same body, and the same work."""
    south.get("/v1/jobs")  # looks the key up
    # Model bundles belong to no hospital.
    tried = [operation for operation in every if operation.ids and operation.scope != Scope.MODELS_MANAGE]
    for operation in tried:
        found = []
        for named in (unknown(ids), ids):
            with statements(app) as asked:
                answer = problem_of(operation.call(south.client, named, bearer(south.key)), 404, "not-found")
            found.append(({**answer, "instance": ""}, asked))
        assert found[0] == found[1], operation.path
    assert len(tried) > 20


def test_nothing_of_it_was_touched(
    every: list[Operation], ids: dict[str, str], north: Caller, south: Caller, clean_database: Database
) -> None:
    """After every operation of another hospital, the owner finds all of it as it was."""
    before = everything(clean_database)
    for operation in every:
        if operation.ids:
            operation.call(south.client, ids, bearer(south.key))
    assert everything(clean_database) == before
    for operation in every:
        if operation.ids and operation.method == "get":
            assert operation.call(north.client, ids, bearer(north.key)).status_code == 200, operation.path


def everything(database: Database) -> dict[str, list[Any]]:
    names = ("jobs", "studies", "images", "batches", "uploads", "webhook_endpoints", "deliveries", "results")
    tables = [Base.metadata.tables[name] for name in names]
    with database.transaction() as session:
        return {one.name: list(session.execute(sa.select(one).order_by(*one.primary_key)).all()) for one in tables}


def test_lists_and_filters_show_nothing_of_another_hospital(
    every: list[Operation], ids: dict[str, str], north: Caller, south: Caller
) -> None:
    for operation in every:
        if operation.method != "get" or operation.ids or operation.scope == Scope.MODELS_READ:
            continue
        named = {name: ids[name] for name in operation.query if name in ids}
        for query in ({}, *({name: value} for name, value in named.items())):
            theirs = json_of(operation.call(south.client, ids, bearer(south.key), **query))["data"]
            mine = json_of(operation.call(north.client, ids, bearer(north.key), **query))["data"]
            assert mine, (operation.path, query)
            assert not {one["id"] for one in mine} & {one["id"] for one in theirs}, (operation.path, query)
