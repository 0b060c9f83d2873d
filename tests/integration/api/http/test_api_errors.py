"""Errors as clients see them: one shape, whatever went wrong, and an id to ask about."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from pydantic import SecretStr

from migrations.upgrade import upgrade
from shared import keys
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import ApiKey, Job
from standalone.services import Postgres, free_port
from tests.support.api import (
    PNG,
    TEXT,
    Caller,
    MakeApp,
    file_part,
    json_of,
    multipart,
    new_key,
    objects,
    part,
    problem_of,
    record_log,
)
from tests.support.waiting import EVENT_SECONDS


def test_an_unknown_path_is_not_found(app: Flask, north: Caller) -> None:
    problem_of(app.test_client().get("/nowhere"), 404, "not-found")
    problem_of(north.get("/v1/nowhere"), 404, "not-found")


@pytest.mark.parametrize(
    "job_id", ["job_%00", "%00", "job_" + "0" * 10_000, "%ff", "'--", "..%2f..", "job_%ed%a0%80", "0", "%20"]
)
def test_any_id_that_is_none_is_not_found(job_id: str, north: Caller) -> None:
    for kind in ("jobs", "studies", "batches", "uploads", "webhook-endpoints"):
        problem_of(north.get(f"/v1/{kind}/{job_id}"), 404, "not-found")
    problem_of(north.post(f"/v1/jobs/{job_id}/cancel"), 404, "not-found")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, zstd"])
def test_a_compressed_body_is_refused_by_the_name_of_its_coding(coding: str, app: Flask, north: Caller) -> None:
    named = coding.lower().rpartition(" ")[2]
    for path in ("/v1/jobs", "/v1/batches?classifier=binary", "/v1/webhook-endpoints", "/v1/uploads"):
        response = north.post(path, data=gzip.compress(b"{}"), headers={"Content-Encoding": coding})
        assert named in problem_of(response, 415, "compressed-body")["detail"]
        assert response.headers["Accept-Encoding"] == "identity"
    response = app.test_client().put("/uploads/upl_0/content", data=b"x", headers={"Content-Encoding": coding})
    problem_of(response, 415, "compressed-body")
    announced = {"files": [{"size_bytes": 1, "sha256": "0" * 64}]}
    json_of(north.post("/v1/uploads", json=announced, headers={"Content-Encoding": "identity"}), 201)


def test_a_wrong_method_says_which_are_right(north: Caller) -> None:
    response = north.call("DELETE", "/v1/jobs")
    problem_of(response, 405, "method-not-allowed")
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


def test_a_body_beyond_the_limit_is_too_large(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_upload_bytes=len(PNG)).test_client(), new_key(clean_database))
    for path in ("/v1/jobs", "/v1/studies", "/v1/batches"):
        problem_of(caller.send(PNG, path=path, modality="xray"), 413, "payload-too-large")


def test_what_is_held_in_memory_has_a_limit_of_its_own(north: Caller) -> None:
    body = multipart(file_part(PNG), part("external_id", b"x" * 600_000))
    problem_of(north.post("/v1/jobs", **body), 413, "payload-too-large")
    problem_of(north.post("/v1/jobs", json={"study_id": "x" * 1_000_000}), 413, "payload-too-large")
    problem_of(north.post("/v1/webhook-endpoints", json={"url": "x" * 1_000_000}), 413, "payload-too-large")


def test_more_files_than_the_limit_are_refused(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_files=2, max_batch_items=20).test_client(), new_key(clean_database))
    assert caller.submit(PNG, PNG)["image_count"] == 2
    problem_of(caller.send(PNG, PNG, PNG, modality="xray"), 422, "invalid-request")
    problem_of(caller.send(*[TEXT] * 50, modality="xray"), 413, "payload-too-large")


def test_a_long_unknown_field_is_not_echoed(north: Caller) -> None:
    body = multipart(file_part(PNG), part("x" * 100_000, b""), part("classifier", b"binary"))
    assert len(north.post("/v1/jobs", **body).data) < 1000


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer tq_unknown", "Basic dXNlcjpwYXNz", "tq_unknown", "Bearer tq_\xff\xfe"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_key_nothing_is_answered(authorization: str, method: str, app: Flask) -> None:
    response = app.test_client().open("/v1/jobs", method=method, headers={"Authorization": authorization})
    problem_of(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def revoke_all(database: Database) -> None:
    with database.transaction() as session:
        assert keys.revoke(session, session.scalars(sa.select(ApiKey.id)).one(), actor="test")


def test_a_revoked_key_opens_nothing(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(key_seconds=0).test_client(), new_key(clean_database))
    json_of(caller.get("/v1/jobs"))
    revoke_all(clean_database)
    problem_of(caller.get("/v1/jobs"), 401, "unauthenticated")


def test_a_revoked_key_opens_nothing_once_it_is_forgotten(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(key_seconds=1).test_client(), new_key(clean_database))
    json_of(caller.get("/v1/jobs"))
    revoke_all(clean_database)
    deadline = time.monotonic() + EVENT_SECONDS
    while caller.get("/v1/jobs").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    problem_of(caller.get("/v1/jobs"), 401, "unauthenticated")


def test_a_key_that_was_refused_opens_as_soon_as_it_exists(app: Flask, clean_database: Database) -> None:
    caller = Caller(app.test_client(), new_key(clean_database))
    with clean_database.transaction() as session:
        known = session.scalars(sa.select(ApiKey)).one()
        known.hash, kept = keys.digest("another"), known.hash
    problem_of(caller.get("/v1/jobs"), 401, "unauthenticated")
    with clean_database.transaction() as session:
        session.scalars(sa.select(ApiKey)).one().hash = kept
    json_of(caller.get("/v1/jobs"))


def test_a_remembered_key_ends_when_it_expires(make_app: MakeApp, clean_database: Database) -> None:
    client = make_app(key_seconds=3600).test_client()
    json_of(client.get("/healthz"))  # what a first request loads is not to take the key's time
    soon = datetime.now(UTC) + timedelta(seconds=5)
    caller = Caller(client, new_key(clean_database, expires_at=soon))
    json_of(caller.get("/v1/jobs"))
    while datetime.now(UTC) < soon:
        time.sleep(0.1)
    problem_of(caller.get("/v1/jobs"), 401, "unauthenticated")


def test_a_key_opens_until_it_expires(app: Flask, clean_database: Database) -> None:
    def expiring(after: timedelta) -> Caller:
        return Caller(app.test_client(), new_key(clean_database, expires_at=datetime.now(UTC) + after))

    json_of(expiring(timedelta(hours=1)).get("/v1/jobs"))
    problem_of(expiring(timedelta(seconds=-1)).get("/v1/jobs"), 401, "unauthenticated")


def test_every_answer_has_a_request_id(app: Flask, north: Caller) -> None:
    answers = [app.test_client().get(path) for path in ("/healthz", "/openapi.json", "/nowhere", "/v1/jobs")]
    answers += [north.get("/v1/jobs"), north.send(PNG, modality="xray")]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(request_id.startswith("req_") for request_id in ids)


def test_made_up_methods_and_paths_are_no_labels(app: Flask) -> None:
    anybody = app.test_client()
    anybody.open("/nowhere-canary", method="CANARY")
    anybody.open("/healthz", method="CANARY")
    assert "canary" not in anybody.get("/metrics").text.lower()


def test_a_fault_of_ours_is_internal_and_logged(
    make_app: MakeApp, postgres: Postgres, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = SecretStr(postgres.ensure_database("thoraq_without_endpoints"))
    database = Database(settings.model_copy(update={"database_url": url}))
    upgrade(database.engine)
    with database.transaction() as session:
        session.execute(sa.text("DROP TABLE IF EXISTS webhook_endpoints CASCADE"))
    caller = Caller(make_app(database_url=url).test_client(), new_key(database))
    database.close()
    logged = record_log(monkeypatch)
    body = problem_of(caller.get("/v1/webhook-endpoints"), 500, "internal")
    assert set(body) == {"type", "title", "status", "detail", "instance"}
    assert "relation" not in str(body)
    assert "request.failed" in logged.getvalue()
    assert keys.digest(caller.key) not in logged.getvalue()


def test_a_database_that_is_away_is_temporary(make_app: MakeApp, clean_database: Database) -> None:
    nobody = SecretStr(f"postgresql+psycopg://thoraq@127.0.0.1:{free_port()}/thoraq")
    caller = Caller(make_app(database_url=nobody).test_client(), new_key(clean_database))
    response = caller.get("/v1/jobs")
    problem_of(response, 503, "unavailable")
    assert response.headers["Retry-After"] == "5"


def test_nothing_is_accepted_while_the_store_is_away(
    app: Flask, north: Caller, tmp_path: Path, clean_database: Database
) -> None:
    (tmp_path / "objects" / ".incoming").rmdir()
    response = north.send(PNG, modality="xray")
    problem_of(response, 503, "storage-unavailable")
    assert response.headers["Retry-After"] == "5"
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Job)).all() == []
    assert json_of(app.test_client().get("/readyz"), 503)["checks"]["storage"] != "ok"


@pytest.fixture
def broken_commit(clean_database: Database) -> Iterator[None]:
    """Whoever adds a study loses its connection in the commit."""
    # As its owner: the API's role may end no connection.
    function = """CREATE FUNCTION break_off() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"""
    trigger = """CREATE CONSTRAINT TRIGGER break_off AFTER INSERT ON studies DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION break_off()"""
    with clean_database.transaction() as session:
        session.execute(sa.text(function))
        session.execute(sa.text(trigger))
    yield
    with clean_database.transaction() as session:
        session.execute(sa.text("DROP FUNCTION break_off CASCADE"))


@pytest.mark.usefixtures("broken_commit")
def test_objects_are_kept_when_nobody_knows_whether_the_rows_are_there(north: Caller) -> None:
    for path in ("/v1/jobs", "/v1/studies", "/v1/batches"):
        before = len(objects(north.client))
        problem_of(north.send(PNG, path=path, modality="xray"), 503, "unavailable")
        assert len(objects(north.client)) == before + 1


def test_jobs_are_accepted_while_the_broker_is_away(make_app: MakeApp, clean_database: Database) -> None:
    app = make_app(redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"))
    caller = Caller(app.test_client(), new_key(clean_database))
    assert caller.submit()["status"] == "queued"
    assert json_of(app.test_client().get("/readyz"), 503)["checks"]["broker"] != "ok"
