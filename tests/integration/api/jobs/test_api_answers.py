"""Answers that a process keeps ready, and clients that wait for one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from flask import Flask

from api.http.services import EXTENSION, Services
from api.jobs import lookup
from shared.config import Settings
from shared.db.engine import Database
from shared.db.listen_notify import CHANNEL, Listener, announce
from shared.db.tables import Job
from shared.errors import CorruptImage
from shared.jobs import states
from shared.keys import Scope
from tests.support.api import PNG, Caller, MakeApp, claim_all, finish, json_of, new_key, problem_of, work
from tests.support.rows import add_job, add_tenant, answer
from tests.support.servers.api import Server
from tests.support.waiting import EVENT_SECONDS


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """What the application asks the database meanwhile."""
    services: Services = app.extensions[EXTENSION]
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    sa.event.listen(services.database.engine, "before_cursor_execute", note)
    yield said
    sa.event.remove(services.database.engine, "before_cursor_execute", note)


def test_a_finished_job_is_polled_without_the_database(app: Flask, north: Caller, clean_database: Database) -> None:
    path = f"/v1/jobs/{north.submit()['id']}"
    work(clean_database)
    first = north.get(path)
    with statements(app) as said:
        again = north.get(path)
        unchanged = north.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert said == []
    assert again.data == first.data
    assert again.headers["ETag"] == first.headers["ETag"]
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert "Content-Type" not in unchanged.headers


def test_what_is_kept_ready_is_forgotten(make_app: MakeApp, clean_database: Database) -> None:
    app = make_app(finished_seconds=0)
    caller = Caller(app.test_client(), new_key(clean_database))
    path = f"/v1/jobs/{caller.submit()['id']}"
    work(clean_database)
    first = json_of(caller.get(path))
    with statements(app) as said:
        assert json_of(caller.get(path)) == first
    assert any("FROM jobs" in statement for statement in said)


@pytest.mark.parametrize("error", [None, CorruptImage()])
def test_what_is_kept_ready_is_its_tenants_alone(
    error: CorruptImage | None, north: Caller, south: Caller, clean_database: Database
) -> None:
    path = f"/v1/jobs/{north.submit()['id']}"
    work(clean_database, error)
    etag = north.get(path).headers["ETag"]
    json_of(north.get(path))
    problem_of(south.get(path), 404, "not-found")
    problem_of(south.get(path, headers={"If-None-Match": etag}), 404, "not-found")


def test_a_job_that_runs_is_never_kept_ready(north: Caller, clean_database: Database) -> None:
    path = f"/v1/jobs/{north.submit()['id']}"
    seen = [json_of(north.get(path))["status"]]
    (claim,) = claim_all(clean_database)
    seen.append(json_of(north.get(path))["status"])
    finish(clean_database, answer(claim))
    seen.append(json_of(north.get(path))["status"])
    assert seen == ["queued", "running", "succeeded"]


def test_places_in_line_are_looked_up_once_for_many_who_ask(
    app: Flask, north: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "PLACE_SECONDS", 3600)
    job = north.submit()
    path = f"/v1/jobs/{job['id']}"
    json_of(north.get(path))
    with statements(app) as said:
        assert {json_of(north.get(path))["position"] for _ in range(3)} == {job["position"]} == {0}
        assert north.submit()["position"] == 0
        stat = north.submit(priority="stat")
    assert stat["position"] == 0
    assert sum("range_agg" in statement for statement in said) == 1  # for the first of another priority


def test_a_submission_is_answered_as_a_poll_would_be(north: Caller) -> None:
    submitted = north.submit(external_id="A-7", metadata='{"ward": 3}', expires_in=3600)
    polled = json_of(north.get(f"/v1/jobs/{submitted['id']}"))
    assert submitted == polled
    assert submitted["expires_at"] > submitted["created_at"]


def test_one_who_waits_is_woken(clean_database: Database, settings: Settings) -> None:
    listener = Listener(settings)
    expecting = listener.expecting
    with expecting("job_1") as first, expecting("job_1") as second, expecting("job_2") as other:
        with clean_database.transaction() as session:
            announce(session, [f"job_{n}x" for n in range(500)] + ["job_1"])
        assert first.wait(EVENT_SECONDS)
        assert second.wait(EVENT_SECONDS)
        assert not other.is_set()


def test_one_who_waits_is_not_woken_by_what_is_rolled_back(clean_database: Database, settings: Settings) -> None:
    listener = Listener(settings)
    with listener.expecting("job_1") as rolled_back, listener.expecting("job_2") as committed:
        with clean_database.transaction() as session:
            announce(session, ["job_1"])
            session.rollback()
        with clean_database.transaction() as session:
            announce(session, ["job_2"])
        assert committed.wait(EVENT_SECONDS)
        assert not rolled_back.is_set()


def test_waiting_goes_on_when_the_listeners_connection_is_cut(clean_database: Database, settings: Settings) -> None:
    listener = Listener(settings)
    with listener.expecting("job_1"):
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = :query"
        with clean_database.transaction() as session:
            assert session.execute(sa.text(cut), {"query": f"LISTEN {CHANNEL}"}).all()
    deadline = time.monotonic() + EVENT_SECONDS
    woken = False
    with listener.expecting("job_2") as ended:
        while not woken and time.monotonic() < deadline:
            with clean_database.transaction() as session:
                announce(session, ["job_2"])
            woken = ended.wait(0.5)
    assert woken


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_the_end_of_a_job_is_announced(end: str, north: Caller, clean_database: Database, settings: Settings) -> None:
    job_id = north.submit()["id"]
    with Listener(settings).expecting(job_id) as ended:
        if end == "finish":
            work(clean_database)
        else:
            json_of(north.post(f"/v1/jobs/{job_id}/cancel"))
        assert ended.wait(EVENT_SECONDS)


def test_one_who_waits_looks_by_himself(
    north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "announce", lambda *_: None)
    path = f"/v1/jobs/{north.submit()['id']}"
    timer = threading.Timer(0.3, work, [clean_database])
    timer.start()
    try:
        assert json_of(north.get(path, headers={"Prefer": "wait=60"}))["status"] == "succeeded"
    finally:
        timer.join()


def test_one_who_finds_no_slot_to_wait_in_is_answered_at_once(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_event_streams=0).test_client(), new_key(clean_database))
    sent = caller.send(PNG, modality="xray", headers={"Prefer": "wait=60"})
    path = f"/v1/jobs/{json_of(sent, 202)['id']}"
    polled = caller.get(path, headers={"Prefer": "wait=60"})
    assert json_of(polled)["status"] == "queued"
    assert polled.headers["Retry-After"] == "1"


def test_eighty_who_wait_leave_threads_for_others(
    clean_database: Database, settings_env: dict[str, str], tmp_path: Path
) -> None:
    environment = os.environ | settings_env | {"THORAQ_STORAGE_DIR": str(tmp_path / "objects")}
    server = Server(environment | {"THORAQ_MAX_WAITS": "3", "THORAQ_MAX_WAITS_PER_TENANT": "2"}, tmp_path / "api.log")
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session, "north")).id
    headers = {"Authorization": f"Bearer {new_key(clean_database, Scope.JOBS_READ, tenant='north')}"}
    server.start()
    try:
        server.wait_ready()
        with httpx.Client(base_url=server.url, headers=headers, timeout=EVENT_SECONDS) as client:
            with ThreadPoolExecutor(80) as threads:
                waits = [
                    threads.submit(client.get, f"/v1/jobs/{job_id}", headers={"Prefer": "wait=60"}) for _ in range(80)
                ]
                declined = [wait.result() for wait in islice(as_completed(waits), 78)]
                assert {response.json()["status"] for response in declined} == {"queued"}
                assert client.get("/healthz").is_success
                with clean_database.transaction() as session:
                    states.cancel(session, session.get_one(Job, job_id).tenant_id, job_id)
                woken = [wait.result().json()["status"] for wait in waits if wait.result() not in declined]
            assert woken == ["cancelled", "cancelled"]
    finally:
        server.stop()


def test_a_study_that_is_deleted_while_its_job_is_read_is_not_there(
    app: Flask, north: Caller, clean_database: Database
) -> None:
    job = north.submit()
    work(clean_database)
    engine = app.extensions[EXTENSION].database.engine
    looks: list[str] = []

    def delete(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        looks.append(statement)
        if len(looks) == 1:
            assert north.call("DELETE", f"/v1/studies/{job['study_id']}").status_code == 204

    sa.event.listen(engine, "after_cursor_execute", delete)
    problem_of(north.get(f"/v1/jobs/{job['id']}"), 404, "not-found")
    sa.event.remove(engine, "after_cursor_execute", delete)
    assert "FROM jobs" in looks[0]
