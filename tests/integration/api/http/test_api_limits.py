"""How much a key and a tenant may ask for, and what those hear who ask for more."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from io import BytesIO

import pytest
import redis
from flask import Flask
from pydantic import SecretStr
from werkzeug.test import TestResponse

from api.http.limits.rate_limits import Limits
from shared.config import Settings
from shared.db.engine import Database
from shared.keys import Scope
from standalone.services import free_port
from tests.support.api import PNG, Caller, MakeApp, json_of, new_key, objects, problem_of

MakeCaller = Callable[[Flask], Caller]


@pytest.fixture
def caller(clean_database: Database) -> MakeCaller:
    """Somebody of the tenant north, with a key of his own."""
    return lambda app: Caller(app.test_client(), new_key(clean_database))


def refused(response: TestResponse) -> str:
    """The detail of a refusal, which says when to come again."""
    problem = problem_of(response, 429, "rate-limited")
    assert 1 <= int(response.headers["Retry-After"]) == problem["retry_after"] <= 3600
    return str(problem["detail"])


def test_a_key_has_so_many_requests_in_a_minute(make_app: MakeApp, caller: MakeCaller) -> None:
    app = make_app(limit_key_requests=3)
    mine, colleague = caller(app), caller(app)
    left = [int(mine.get("/v1/jobs").headers["RateLimit-Remaining"]) for _ in range(3)]
    assert left == [2, 1, 0]
    response = mine.get("/v1/jobs")
    assert "requests of a key" in refused(response)
    assert response.headers["RateLimit-Limit"] == "3"
    assert 0 < int(response.headers["RateLimit-Reset"]) <= 60
    json_of(colleague.get("/v1/jobs"))


def test_the_keys_of_a_tenant_share_its_limit(make_app: MakeApp, caller: MakeCaller, clean_database: Database) -> None:
    app = make_app(limit_tenant_requests=2)
    json_of(caller(app).get("/v1/jobs"))
    json_of(caller(app).get("/v1/jobs"))
    assert "requests of a tenant" in refused(caller(app).get("/v1/jobs"))
    json_of(Caller(app.test_client(), new_key(clean_database, tenant="south")).get("/v1/jobs"))


def test_processes_count_together(make_app: MakeApp, caller: MakeCaller) -> None:
    one, other = make_app(limit_key_requests=4), make_app(limit_key_requests=4)
    mine = caller(one)
    same = Caller(other.test_client(), mine.key)
    for _ in range(2):
        json_of(mine.get("/v1/jobs"))
        json_of(same.get("/v1/jobs"))
    refused(mine.get("/v1/jobs"))
    refused(same.get("/v1/jobs"))


def test_bytes_beyond_the_limit_are_refused_before_they_are_read(make_app: MakeApp, caller: MakeCaller) -> None:
    mine = caller(make_app(limit_tenant_bytes=len(PNG) * 2))
    json_of(mine.send(PNG, modality="xray"), 202)
    stored = len(objects(mine.client))
    assert "bytes of a tenant" in refused(mine.send(PNG, modality="xray"))
    assert len(objects(mine.client)) == stored
    json_of(mine.get("/v1/jobs"))


def test_bytes_that_are_said_to_come_and_are_not_read_cost_the_tenant_nothing(
    make_app: MakeApp, caller: MakeCaller, clean_database: Database
) -> None:
    app = make_app(limit_tenant_bytes=3_000_000, max_upload_bytes=2_500_000, max_batch_bytes=2_500_000)
    reader = Caller(app.test_client(), new_key(clean_database, Scope.JOBS_READ))
    for _ in range(3):
        said = {"CONTENT_LENGTH": "2000000"}
        problem_of(reader.post("/v1/jobs", environ_overrides=said), 403, "forbidden")
        json_of(reader.get("/v1/jobs", environ_overrides={"CONTENT_LENGTH": "900000"}))
    json_of(caller(app).send(PNG, modality="xray"), 202)


@pytest.mark.parametrize("length", [2_500_001, 900_000_000_000, 9 * 10**18, 10**30])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_that_no_route_would_take_is_refused_before_it_counts(
    method: str, length: int, make_app: MakeApp, caller: MakeCaller
) -> None:
    mine = caller(make_app(limit_tenant_bytes=3_000_000, max_upload_bytes=2_500_000, max_batch_bytes=2_500_000))
    response = mine.client.open(
        "/v1/jobs",
        method=method,
        headers={"Authorization": f"Bearer {mine.key}"},
        environ_overrides={"CONTENT_LENGTH": str(length)},
    )
    problem_of(response, 413, "payload-too-large")
    json_of(mine.send(PNG, modality="xray"), 202)


def test_bytes_of_an_unknown_length_are_counted_as_they_come(make_app: MakeApp, caller: MakeCaller) -> None:
    mine = caller(make_app(limit_tenant_bytes=100_000))
    body = {"input_stream": BytesIO(bytes(1_000_000)), "headers": {"Content-Type": "application/zip"}}
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    response = mine.post("/v1/batches?classifier=binary", environ_overrides=environ, **body)
    assert "bytes of a tenant" in refused(response)
    assert objects(mine.client) == []


def test_bytes_that_go_past_the_api_are_counted_when_they_are_announced(make_app: MakeApp, caller: MakeCaller) -> None:
    mine = caller(make_app(limit_tenant_bytes=1_000_000))
    file = {"size_bytes": 900_000, "sha256": hashlib.sha256(b"").hexdigest()}
    json_of(mine.post("/v1/uploads", json={"files": [file]}), 201)
    refused(mine.post("/v1/uploads", json={"files": [file]}))


def test_without_redis_a_part_of_the_limit_is_left_and_no_more(make_app: MakeApp, caller: MakeCaller) -> None:
    nobody = SecretStr(f"redis://127.0.0.1:{free_port()}/0")
    mine = caller(make_app(redis_url=nobody, limit_key_requests=20, limit_tenant_bytes=8 * len(PNG)))
    json_of(mine.send(PNG, modality="xray"), 202)
    assert "bytes of a tenant" in refused(mine.send(PNG, modality="xray"))
    for _ in range(3):
        json_of(mine.get("/v1/jobs"))
    assert "requests of a key" in refused(mine.get("/v1/jobs"))


def test_no_limit_is_no_limit(make_app: MakeApp, caller: MakeCaller) -> None:
    mine = caller(make_app(limit_key_requests=0, limit_tenant_requests=0, limit_tenant_bytes=0))
    response = mine.get("/v1/jobs")
    assert response.status_code == 200
    assert "RateLimit-Limit" not in response.headers


def test_a_window_ends(make_app: MakeApp, caller: MakeCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"), limit_key_requests=4)
    mine = caller(app)
    json_of(mine.get("/v1/jobs"))
    refused(mine.get("/v1/jobs"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    json_of(mine.get("/v1/jobs"))


def test_the_last_moment_of_a_window_takes_no_more_than_what_is_asked(settings: Settings, clean_redis: None) -> None:
    del clean_redis  # nobody has counted yet
    few = settings.model_copy(update={"limit_key_requests": 600})
    Limits(few).admit("key_1", "ten_1")
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as wire:
        windows = [name for name in wire.scan_iter() if b"key_1" in name]
        assert windows
        for name in windows:
            wire.pexpire(name, 450)
    limits = Limits(few)
    for _ in range(300):
        limits.admit("key_1", "ten_1")
