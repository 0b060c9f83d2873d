"""Jobs after they were accepted: polls, waiting, lists, cancelling. The tests do the worker's part themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import Flask

from shared.db.engine import Database
from shared.db.tables import AuditEntry, Result
from shared.errors import CorruptImage
from tests.support.api import PNG, Caller, MakeApp, claim_all, finish, json_of, new_key, problem_of, work
from tests.support.rows import BUNDLE, answer, enlarge


@contextmanager
def worker(database: Database) -> Iterator[None]:
    """A thread that succeeds with the first job that it sees."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            if claims := claim_all(database):
                finish(database, *map(answer, claims))
                return
            time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_succeeded_job_carries_its_result(north: Caller, clean_database: Database) -> None:
    job_id = north.submit(PNG, PNG)["id"]
    work(clean_database)
    response = north.get(f"/v1/jobs/{job_id}")
    job = json_of(response)
    assert job["status"] == "succeeded"
    assert job["result"]["prediction"] == "not_covid19"
    assert job["result"]["probabilities"] == {"covid19": 0.25, "not_covid19": 0.75}
    assert job["result"]["aggregate"] == "mean"
    assert [image["file"] for image in job["result"]["images"]] == [0, 1]
    assert job["result"]["model"]["sha256"] == BUNDLE
    assert "research" in job["result"]["notice"]
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert "Retry-After" not in response.headers


def test_a_failed_job_says_why(north: Caller, clean_database: Database) -> None:
    job_id = north.submit()["id"]
    work(clean_database, error=CorruptImage())
    job = json_of(north.get(f"/v1/jobs/{job_id}"))
    assert (job["status"], job["error"]["type"], job["result"]) == ("failed", "corrupt-image", None)


def test_a_poll_with_the_etag_costs_no_body_until_something_changes(north: Caller, clean_database: Database) -> None:
    path = f"/v1/jobs/{north.submit()['id']}"
    first = north.get(path)
    assert first.headers["Retry-After"] == "1"
    unchanged = north.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert unchanged.headers["ETag"] == first.headers["ETag"]
    work(clean_database)
    changed = north.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert json_of(changed)["status"] == "succeeded"
    assert changed.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("prefer", ["wait=60", "respond-async, wait=60", "Wait=999999999"])
def test_a_poll_that_waits_answers_when_the_job_ends(prefer: str, north: Caller, clean_database: Database) -> None:
    path = f"/v1/jobs/{north.submit()['id']}"
    with worker(clean_database):
        assert json_of(north.get(path, headers={"Prefer": prefer}))["status"] == "succeeded"


def test_a_submission_that_waits_answers_with_the_result(north: Caller, clean_database: Database) -> None:
    with worker(clean_database):
        response = north.send(PNG, modality="xray", headers={"Prefer": "wait=60"})
    job = json_of(response, 200)
    assert job["status"] == "succeeded"
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"


@pytest.mark.parametrize("prefer", ["wait=0", "respond-async", "wait=600"])
def test_waiting_ends_without_the_result(prefer: str, make_app: MakeApp, clean_database: Database) -> None:
    impatient = Caller(make_app(max_wait_seconds=0.1).test_client(), new_key(clean_database))
    response = impatient.send(PNG, modality="xray", headers={"Prefer": prefer})
    job = json_of(response, 202)
    assert job["status"] == "queued"
    assert json_of(impatient.get(f"/v1/jobs/{job['id']}", headers={"Prefer": prefer}))["status"] == "queued"


@pytest.mark.parametrize("wait", ["soon", "nan", '""', "9" * 5000])
def test_a_wait_that_is_no_number_is_ignored(wait: str, north: Caller) -> None:
    assert json_of(north.send(PNG, modality="xray", headers={"Prefer": f"wait={wait}"}), 202)["status"] == "queued"


def test_lists_are_newest_first_and_walk_by_cursor(north: Caller, south: Caller) -> None:
    made = [north.submit()["id"] for _ in range(5)]
    south.submit()
    seen: list[str] = []
    query: str | None = "limit=2"
    while query:
        page = json_of(north.get(f"/v1/jobs?{query}"))
        assert page["object"] == "list"
        assert 1 <= len(page["data"]) <= 2
        seen += [job["id"] for job in page["data"]]
        query = page["next_cursor"] and f"limit=2&cursor={page['next_cursor']}"
    assert seen == made[::-1]


def test_lists_leave_out_the_results_of_images_and_bring_them_in_short_pages(
    north: Caller, clean_database: Database
) -> None:
    made = [north.submit()["id"] for _ in range(5)]
    work(clean_database)
    enlarge(clean_database, 1_500)
    single = json_of(north.get(f"/v1/jobs/{made[0]}"))
    *_, listed = json_of(north.get("/v1/jobs"))["data"]
    assert len(single["result"]["images"]) == 1_500
    assert listed == single | {"result": single["result"] | {"images": []}}
    seen: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = json_of(north.get("/v1/jobs?include=result" + (f"&cursor={cursor}" if cursor else "")))
        assert all(len(job["result"]["images"]) == 1_500 for job in page["data"])
        seen.append([job["id"] for job in page["data"]])
        cursor = page["next_cursor"]
    assert [len(ids) for ids in seen] == [2, 2, 1]
    assert list(chain(*seen)) == made[::-1]


def test_a_job_of_more_images_than_a_page_has_room_for_is_a_page(north: Caller, clean_database: Database) -> None:
    made = [north.submit()["id"] for _ in range(2)]
    work(clean_database)
    enlarge(clean_database, 5_000)
    page = json_of(north.get("/v1/jobs?include=result"))
    assert [job["id"] for job in page["data"]] == [page["next_cursor"]] == made[1:]


def test_lists_take_filters(north: Caller, clean_database: Database) -> None:
    done = north.submit(external_id="ä & b")
    work(clean_database)
    other = north.submit(classifier="ensemble")
    batch = json_of(north.send(PNG, path="/v1/batches", modality="xray"), 202)

    def ids(query: str) -> set[str]:
        return {job["id"] for job in json_of(north.get(f"/v1/jobs?{query}"))["data"]}

    (batched,) = ids(f"batch_id={batch['id']}")
    assert ids("status=succeeded") == {done["id"]}
    assert ids("status=queued") == {other["id"], batched}
    assert ids("status=queued&classifier=ensemble") == {other["id"]}
    assert ids(f"study_id={done['study_id']}") == {done["id"]}
    assert ids(f"external_id={quote('ä & b')}") == {done["id"]}
    assert ids("external_id=nobody") == set()
    assert ids(f"batch_id=bat_{'0' * 32}") == set()


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=many",
        "limit=" + "9" * 5000,
        "cursor=garbage",
        "cursor=job_%00",
        "cursor=" + "a" * 5000,
        "cursor='; DROP TABLE jobs",
        "status=lost",
        "classifier=best",
        "external_id=%00",
        "external_id=",
        "study_id=%00",
        "batch_id=1",
        "stauts=queued",
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: str, north: Caller) -> None:
    body = problem_of(north.get(f"/v1/jobs?{query}"), 422, "invalid-request")
    assert [error["field"] for error in body["errors"]] == [query.partition("=")[0]]


def test_a_queued_job_is_cancelled_and_never_runs(north: Caller, clean_database: Database) -> None:
    job_id = north.submit()["id"]
    job = json_of(north.post(f"/v1/jobs/{job_id}/cancel"))
    assert (job["status"], job["id"]) == ("cancelled", job_id)
    assert job["finished_at"]
    assert claim_all(clean_database) == []
    assert json_of(north.post(f"/v1/jobs/{job_id}/cancel")) == job


def test_the_worker_of_a_cancelled_job_loses(north: Caller, clean_database: Database) -> None:
    job_id = north.submit()["id"]
    (claim,) = claim_all(clean_database)
    assert json_of(north.get(f"/v1/jobs/{job_id}"))["status"] == "running"
    assert json_of(north.post(f"/v1/jobs/{job_id}/cancel"))["status"] == "cancelled"
    assert finish(clean_database, answer(claim)) == [job_id]
    job = json_of(north.get(f"/v1/jobs/{job_id}"))
    assert (job["status"], job["result"]) == ("cancelled", None)
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Result)) == 0


@pytest.mark.parametrize("error", [None, CorruptImage()])
def test_a_finished_job_cannot_be_cancelled(
    error: CorruptImage | None, north: Caller, clean_database: Database
) -> None:
    job_id = north.submit()["id"]
    work(clean_database, error)
    before = json_of(north.get(f"/v1/jobs/{job_id}"))
    body = problem_of(north.post(f"/v1/jobs/{job_id}/cancel"), 409, "conflict")
    assert body["state"] == before["status"]
    assert json_of(north.get(f"/v1/jobs/{job_id}")) == before


def test_acts_are_in_the_audit_log(north: Caller, clean_database: Database) -> None:
    job_id = north.submit()["id"]
    north.post(f"/v1/jobs/{job_id}/cancel")
    with clean_database.transaction() as session:
        entries = session.scalars(sa.select(AuditEntry).where(AuditEntry.subject == job_id).order_by(AuditEntry.id))
        found = [(entry.action, entry.actor.partition("_")[0]) for entry in entries]
    assert found == [("job.submit", "key"), ("job.cancel", "key")]


def test_models_are_listed_with_their_cards(north: Caller, clean_database: Database) -> None:
    assert json_of(north.get("/v1/models")) == {"object": "list", "data": []}
    north.submit()
    work(clean_database)
    (model,) = json_of(north.get("/v1/models"))["data"]
    assert (model["sha256"], model["name"], model["card"], model["serving"]) == (BUNDLE, "test", {}, False)


def test_the_service_lives_and_says_what_is_missing(app: Flask, north: Caller) -> None:
    anybody = app.test_client()
    assert json_of(anybody.get("/healthz")) == {"status": "alive"}
    checks: dict[str, Any] = json_of(anybody.get("/readyz"), 503)["checks"]
    assert {part: said for part, said in checks.items() if not part.startswith("worker:")} == {
        "database": "ok",
        "storage": "ok",
        "broker": "ok",
        "disk": "ok",
        "queue": "ok",
    }
    assert checks["worker:classify"] == "no live worker"
    north.submit()
    assert 'thoraq_jobs{priority="routine",state="queued"} 1.0' in anybody.get("/metrics").text
