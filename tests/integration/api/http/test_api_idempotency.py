"""`Idempotency-Key`: a request that is sent again makes nothing new."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from shared.db.engine import Database
from shared.db.tables import AuditEntry, Base, Batch, Job, Study, WebhookEndpoint
from tests.support.api import CT_DICOM, PNG, Caller, json_of, new_key, objects, problem_of, work

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


def rows(database: Database, table: type[Base]) -> int:
    with database.transaction() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def endpoint(caller: Caller, **fields: Any) -> TestResponse:
    body = {"url": "http://127.0.0.1/hook", "events": ["*"]} | fields
    return caller.post("/v1/webhook-endpoints", json=body, headers=KEY)


def send(path: str) -> Callable[..., TestResponse]:
    return lambda caller, *files, **fields: caller.send(
        *(files or (PNG,)), path=path, headers=KEY, **({"modality": "xray"} | fields)
    )


CREATORS = [
    (send("/v1/jobs"), Job, 202, {"external_id": "other"}),
    (send("/v1/studies"), Study, 201, {"external_id": "other"}),
    (send("/v1/batches"), Batch, 202, {"priority": "stat"}),
    (endpoint, WebhookEndpoint, 201, {"description": "other"}),
]


@pytest.mark.parametrize(("create", "table", "status", "_other"), CREATORS)
def test_the_same_request_gets_the_same_resource(
    create: Callable[..., TestResponse],
    table: type[Base],
    status: int,
    _other: dict[str, str],
    north: Caller,
    clean_database: Database,
) -> None:
    first, stored = create(north), objects(north.client)
    acts = rows(clean_database, AuditEntry)
    again = create(north)
    # A secret is shown once.
    once = {"secret": None} if table is WebhookEndpoint else {}
    assert json_of(again, status) == json_of(first, status) | once
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert rows(clean_database, table) == 1
    assert rows(clean_database, AuditEntry) == acts
    assert objects(north.client) == stored


@pytest.mark.parametrize(("create", "table", "_status", "other"), CREATORS)
def test_the_key_with_another_request_is_refused(
    create: Callable[..., TestResponse],
    table: type[Base],
    _status: int,
    other: dict[str, str],
    north: Caller,
    clean_database: Database,
) -> None:
    create(north)
    stored = objects(north.client)
    problem_of(create(north, **other), 422, "idempotency-key-reused")
    assert rows(clean_database, table) == 1
    assert objects(north.client) == stored


def test_other_bytes_are_another_request(north: Caller) -> None:
    create = send("/v1/studies")
    create(north, PNG)
    problem_of(create(north, PNG + b"\0"), 422, "idempotency-key-reused")
    problem_of(create(north, PNG, PNG), 422, "idempotency-key-reused")
    problem_of(create(north, CT_DICOM, modality="ct"), 422, "idempotency-key-reused")


def test_a_key_belongs_to_its_tenant(north: Caller, south: Caller) -> None:
    create = send("/v1/jobs")
    mine, theirs = json_of(create(north), 202), create(south)
    assert json_of(theirs, 202)["id"] != mine["id"]
    assert "Idempotency-Replayed" not in theirs.headers


def test_a_replay_shows_the_job_as_it_is_now(north: Caller, clean_database: Database) -> None:
    create = send("/v1/jobs")
    create(north)
    work(clean_database)
    assert json_of(create(north), 202)["status"] == "succeeded"


def test_a_stored_study_is_submitted_once(north: Caller, clean_database: Database) -> None:
    body = {"study_id": json_of(north.send(PNG, path="/v1/studies", modality="xray"), 201)["id"]}
    first = north.post("/v1/jobs", json=body | {"classifier": "binary"}, headers=KEY)
    again = north.post("/v1/jobs", json=body | {"classifier": "binary"}, headers=KEY)
    assert json_of(again, 202)["id"] == json_of(first, 202)["id"]
    assert rows(clean_database, Job) == 1
    other = north.post("/v1/jobs", json=body | {"classifier": "ensemble"}, headers=KEY)
    problem_of(other, 422, "idempotency-key-reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_that_cannot_be_kept_is_refused(key: str, north: Caller, clean_database: Database) -> None:
    answer = north.send(PNG, modality="xray", headers={"Idempotency-Key": key})
    problem_of(answer, 422, "invalid-request")
    assert rows(clean_database, Job) == 0
    assert objects(north.client) == []


@pytest.mark.parametrize(("create", "table", "status", "_other"), CREATORS)
def test_of_concurrent_duplicates_one_creates(
    create: Callable[..., TestResponse],
    table: type[Base],
    status: int,
    _other: dict[str, str],
    app: Flask,
    clean_database: Database,
) -> None:
    key, together, answers = new_key(clean_database), threading.Barrier(4), list[TestResponse]()

    def run() -> None:
        caller = Caller(app.test_client(), key)
        together.wait()
        answers.append(create(caller))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json_of(answer, status)["id"] for answer in answers}) == 1
    assert sorted("Idempotency-Replayed" in answer.headers for answer in answers) == [False, True, True, True]
    assert rows(clean_database, table) == 1
    assert len(objects(app.test_client())) == (0 if table is WebhookEndpoint else 1)
