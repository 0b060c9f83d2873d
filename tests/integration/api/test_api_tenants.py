"""What belongs to one hospital does not exist for another, and what may name a patient stays with its sender."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from shared.db.engine import Database
from shared.errors import CorruptImage
from tests.support.api import PNG, TEXT, Caller, json_of, problem_of, work
from tests.support.rows import told
from tests.support.tenants import (
    artifact,
    batch,
    complete_upload,
    endpoint,
    job,
    key,
    open_study,
    pending_upload,
    study,
)

UNKNOWN = "0" * 32
ID = re.compile(r"\{(\w+)\}")
CANARY = "Mustermann"


ROUTES: list[tuple[Callable[[Caller], dict[str, str]], str, str, Any]] = [
    (job, "GET", "/v1/jobs/{job}", None),
    (job, "POST", "/v1/jobs/{job}/cancel", None),
    (artifact, "GET", "/v1/jobs/{job}/artifacts", None),
    (artifact, "GET", "/v1/jobs/{job}/artifacts/{artifact}", None),
    (study, "GET", "/v1/studies/{study}", None),
    (study, "GET", "/v1/studies/{study}/images/{image}/preview", None),
    (study, "POST", "/v1/jobs", {"study_id": "{study}", "classifier": "binary"}),
    (open_study, "POST", "/v1/studies/{study}/complete", None),
    (open_study, "POST", "/v1/studies/{study}/images", {"upload_ids": ["{upload}"]}),
    (pending_upload, "GET", "/v1/uploads/{upload}", None),
    (pending_upload, "POST", "/v1/uploads/{upload}/complete", None),
    (pending_upload, "DELETE", "/v1/uploads/{upload}", None),
    (complete_upload, "POST", "/v1/jobs", {"upload_ids": ["{upload}"], "modality": "xray", "classifier": "binary"}),
    (complete_upload, "POST", "/v1/studies", {"upload_ids": ["{upload}"], "modality": "xray"}),
    (batch, "GET", "/v1/batches/{batch}", None),
    (batch, "POST", "/v1/batches/{batch}/cancel", None),
    (batch, "GET", "/v1/batches/{batch}/results", None),
    (batch, "GET", "/v1/batches/{batch}/errors", None),
    (batch, "GET", "/v1/batches/{batch}/events", None),
    (endpoint, "GET", "/v1/webhook-endpoints/{endpoint}", None),
    (endpoint, "PATCH", "/v1/webhook-endpoints/{endpoint}", {"enabled": False}),
    (endpoint, "POST", "/v1/webhook-endpoints/{endpoint}/rotate-secret", None),
    (endpoint, "POST", "/v1/webhook-endpoints/{endpoint}/test", None),
    (endpoint, "GET", "/v1/webhook-endpoints/{endpoint}/deliveries", None),
    (endpoint, "POST", "/v1/deliveries/{delivery}/redeliver", None),
    (endpoint, "POST", "/v1/webhook-endpoints/{endpoint}/replay", {"since": "2026-01-01T00:00:00Z"}),
    (endpoint, "DELETE", "/v1/webhook-endpoints/{endpoint}", None),
    (study, "DELETE", "/v1/studies/{study}", None),
    (key, "GET", "/v1/keys/{key}", None),
    (key, "POST", "/v1/keys/{key}/revoke", None),
]


def call(caller: Caller, method: str, path: str, body: Any, ids: dict[str, str]) -> TestResponse:
    filled = body and json.loads(ID.sub(lambda found: ids[found[1]], json.dumps(body)))
    return caller.call(method, path.format(**ids), **({} if filled is None else {"json": filled}))


@pytest.mark.parametrize(("make", "method", "path", "body"), ROUTES)
def test_another_hospitals_thing_looks_like_no_thing(
    make: Callable[[Caller], dict[str, str]], method: str, path: str, body: Any, north: Caller, south: Caller
) -> None:
    ids = make(north)
    unknown = {name: f"{value.partition('_')[0]}_{UNKNOWN}" for name, value in ids.items()}
    theirs = problem_of(call(south, method, path, body, ids), 404, "not-found")
    nobodys = problem_of(call(south, method, path, body, unknown), 404, "not-found")
    assert {**theirs, "instance": ""} == {**nobodys, "instance": ""}
    # Nothing happened to it, and its owner may do the same.
    assert call(north, method, path, body, ids).status_code in {200, 201, 202, 204, 409}


def test_every_route_that_takes_an_id_is_in_that_table(north: Caller) -> None:
    app = north.client.application
    adapter = app.url_map.bind("localhost")
    names = {
        "upload": "u",
        "job": "j",
        "artifact": "a",
        "study": "s",
        "image": "i",
        "batch": "b",
        "endpoint": "e",
        "delivery": "d",
        "key": "k",
    }
    tried = {(adapter.match(path.format(**names), method=method)[0], method) for _, method, path, _ in ROUTES}
    with_ids = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        # Model bundles belong to no hospital.
        if rule.rule.startswith("/v1/") and rule.arguments and not rule.rule.startswith("/v1/models/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert with_ids <= tried


def test_lists_hold_the_own_things_only(north: Caller, south: Caller) -> None:
    ids = job(north) | batch(north) | endpoint(north)
    for path in ("/v1/jobs", "/v1/webhook-endpoints", f"/v1/jobs?batch_id={ids['batch']}"):
        assert json_of(north.get(path))["data"]
        assert json_of(south.get(path))["data"] == []


def test_a_filter_by_another_hospitals_study_finds_nothing(north: Caller, south: Caller) -> None:
    submitted = north.submit()
    assert json_of(south.get(f"/v1/jobs?study_id={submitted['study_id']}"))["data"] == []


def named(caller: Caller, path: str, content: bytes, **fields: str) -> TestResponse:
    """A submission that names a patient wherever a client can."""
    data = {"classifier": "binary", "modality": "xray", "external_id": CANARY} | fields
    files = {"files": (BytesIO(content), f"{CANARY}.png")}
    return caller.post(path, data=data | files, content_type="multipart/form-data")


def test_the_sender_gets_back_what_it_attached(north: Caller) -> None:
    shown = json_of(named(north, "/v1/jobs", PNG, metadata=f'{{"name": "{CANARY}"}}'), 202)
    assert (shown["external_id"], shown["metadata"]) == (CANARY, {"name": CANARY})


def test_no_patient_is_named_in_logs_and_events(north: Caller, logged: io.StringIO, clean_database: Database) -> None:
    endpoint(north)
    metadata = f'{{"name": "{CANARY}"}}'
    made = json_of(named(north, "/v1/jobs", PNG, metadata=metadata), 202)
    named(north, "/v1/batches", PNG)
    work(clean_database)
    named(north, "/v1/jobs", PNG, metadata=metadata)
    work(clean_database, CorruptImage())
    again = north.post("/v1/jobs", json={"study_id": made["study_id"], "classifier": "ensemble"})
    north.post(f"/v1/jobs/{json_of(again, 202)['id']}/cancel")
    json_of(north.get(f"/v1/jobs?external_id={CANARY}"))
    bodies = told(clean_database)
    assert bodies.keys() == {"test", "job.succeeded", "job.failed", "job.cancelled", "batch.completed"}
    assert CANARY not in str(bodies)
    assert made["id"] in logged.getvalue()
    assert CANARY not in logged.getvalue()


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (TEXT + CANARY.encode(), {}),
        (b"", {}),
        (PNG, {"metadata": f'{{"name": "{CANARY}"'}),
        (PNG, {"metadata": f'["{CANARY}"]'}),
        (PNG, {"metadata": f'{{"{CANARY}": "\\u0000"}}'}),
        (PNG, {"external_id": f"{CANARY}\0"}),
        (PNG, {"modality": CANARY}),
        (PNG, {"classifier": CANARY}),
        (PNG, {"priority": CANARY}),
    ],
)
def test_no_patient_is_named_in_a_refusal(
    content: bytes, fields: dict[str, str], north: Caller, logged: io.StringIO
) -> None:
    response = named(north, "/v1/jobs", content, **fields)
    assert response.status_code == 422
    assert CANARY not in response.text
    assert CANARY not in logged.getvalue()


def test_no_patient_is_named_when_the_database_refuses_a_row(
    north: Caller, logged: io.StringIO, clean_database: Database
) -> None:
    rule = sa.text(f"ALTER TABLE studies ADD CONSTRAINT ck_test CHECK (external_id <> '{CANARY}')")
    with clean_database.transaction() as session:
        session.execute(rule)
    try:
        response = named(north, "/v1/jobs", PNG, metadata=f'{{"name": "{CANARY}"}}')
    finally:
        with clean_database.transaction() as session:
            session.execute(sa.text("ALTER TABLE studies DROP CONSTRAINT ck_test"))
    problem_of(response, 500, "internal")
    assert "IntegrityError" in logged.getvalue()
    assert CANARY not in response.text + logged.getvalue()
