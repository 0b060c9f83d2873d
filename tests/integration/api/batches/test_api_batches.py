"""Batches: each file a study and a job of its own, counted until all have ended."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Event, EventType
from shared.errors import CorruptImage
from shared.jobs.claims import Outcome
from tests.support.api import (
    CT_DICOM,
    PNG,
    TEXT,
    Caller,
    claim_all,
    fields_of,
    finish,
    json_of,
    objects,
    problem_of,
    work,
)
from tests.support.batches import counts, errors
from tests.support.rows import answer
from worker.deliver.payloads import payloads


def test_a_key_that_no_batch_can_have_is_refused(north: Caller) -> None:
    assert fields_of(north.get("/v1/batches?idempotency_key=%00")) == ["idempotency_key"]


def test_options_beside_a_form_are_not_ignored(north: Caller) -> None:
    assert fields_of(north.send(PNG, path="/v1/batches?priority=stat", modality="xray")) == ["priority"]


def send(caller: Caller, *files: bytes, **fields: Any) -> dict[str, Any]:
    batch: dict[str, Any] = json_of(caller.send(*files, path="/v1/batches", **({"modality": "xray"} | fields)), 202)
    return batch


def completed(database: Database) -> list[dict[str, Any]]:
    """The payloads of the events that say that a batch is complete."""
    with database.transaction() as session:
        events = session.scalars(sa.select(Event).where(Event.type == EventType.BATCH_COMPLETED)).all()
        return list(payloads(session, events).values())


def subscribe(caller: Caller) -> None:
    json_of(caller.post("/v1/webhook-endpoints", json={"url": "http://127.0.0.1/", "events": ["*"]}), 201)


def test_each_file_becomes_a_job(north: Caller) -> None:
    response = north.send(PNG, PNG, CT_DICOM, path="/v1/batches", external_id="night", modality=None)
    assert response.headers["Retry-After"] == "1"
    assert errors(north, json_of(response, 202)["id"]) == [
        (0, "0.png", "rejected", "invalid-request"),
        (1, "1.png", "rejected", "invalid-request"),
    ]
    batch = send(north, PNG, PNG, external_id="night")
    assert (batch["object"], batch["status"], batch["external_id"]) == ("batch", "running", "night")
    assert batch["counts"] == counts(total=2, queued=2)
    assert batch["completed_at"] is None
    jobs = json_of(north.get(f"/v1/jobs?batch_id={batch['id']}"))["data"]
    assert {job["batch_id"] for job in jobs} == {batch["id"]}
    assert len({job["study_id"] for job in jobs}) == 2
    assert {(job["priority"], job["image_count"], job["external_id"]) for job in jobs} == {("bulk", 1, None)}


def test_a_batch_is_where_its_location_says(north: Caller) -> None:
    response = north.send(PNG, path="/v1/batches", modality="xray", priority="stat")
    polled = north.get(response.headers["Location"])
    assert json_of(polled) == json_of(response, 202)
    assert polled.headers["Retry-After"] == "1"


def test_the_counts_follow_the_jobs(north: Caller, clean_database: Database) -> None:
    subscribe(north)
    path = f"/v1/batches/{send(north, PNG, PNG, PNG, PNG)['id']}"
    first, second, third, fourth = claim_all(clean_database)
    assert json_of(north.get(path))["counts"] == counts(total=4, running=4)
    finish(clean_database, answer(first), Outcome(second, error=CorruptImage()))
    north.post(f"/v1/jobs/{third.job_id}/cancel")
    assert json_of(north.get(path))["counts"] == counts(total=4, running=1, succeeded=1, failed=1, cancelled=1)
    assert completed(clean_database) == []
    finish(clean_database, answer(fourth))
    response = north.get(path)
    batch = json_of(response)
    assert batch["status"] == "completed_with_errors"
    assert batch["counts"] == counts(total=4, succeeded=2, failed=1, cancelled=1)
    assert batch["completed_at"]
    assert "Retry-After" not in response.headers
    (payload,) = completed(clean_database)
    assert payload["type"] == "batch.completed"
    assert (payload["data"]["id"], payload["data"]["counts"]) == (batch["id"], batch["counts"])


def test_a_batch_without_errors_is_completed(north: Caller, clean_database: Database) -> None:
    subscribe(north)
    batch = send(north, PNG, PNG)
    work(clean_database)
    batch = json_of(north.get(f"/v1/batches/{batch['id']}"))
    assert (batch["status"], batch["counts"]) == ("completed", counts(total=2, succeeded=2))
    assert len(completed(clean_database)) == 1


def test_the_last_job_may_be_cancelled(north: Caller, clean_database: Database) -> None:
    subscribe(north)
    batch = send(north, PNG)
    (job,) = json_of(north.get(f"/v1/jobs?batch_id={batch['id']}"))["data"]
    north.post(f"/v1/jobs/{job['id']}/cancel")
    assert json_of(north.get(f"/v1/batches/{batch['id']}"))["status"] == "completed_with_errors"
    assert len(completed(clean_database)) == 1


def test_bad_files_are_listed_and_the_rest_is_done(north: Caller, clean_database: Database) -> None:
    batch = send(north, TEXT, PNG, b"", CT_DICOM[:400])
    assert errors(north, batch["id"]) == [
        (0, "0.png", "rejected", "unsupported-image"),
        (2, "2.png", "rejected", "empty-file"),
        (3, "3.png", "rejected", "corrupt-image"),
    ]
    assert batch["counts"] == counts(total=4, queued=1, rejected=3)
    assert len(objects(north.client)) == 1
    work(clean_database)
    batch = json_of(north.get(f"/v1/batches/{batch['id']}"))
    assert (batch["status"], batch["counts"]) == (
        "completed_with_errors",
        counts(total=4, succeeded=1, rejected=3),
    )


@pytest.mark.parametrize(
    ("files", "fields", "kinds"),
    [
        ([TEXT, b""], {"modality": "xray"}, ["unsupported-image", "empty-file"]),
        ([PNG], {}, ["invalid-request"]),
        ([CT_DICOM, CT_DICOM], {"classifier": "ensemble"}, ["invalid-request", "invalid-request"]),
    ],
)
def test_a_batch_without_a_usable_file_is_refused(
    files: list[bytes], fields: dict[str, Any], kinds: list[str], north: Caller
) -> None:
    body = problem_of(north.send(*files, path="/v1/batches", **fields), 422, "invalid-request")
    assert [item["problem"]["type"] for item in body["rejected"]] == kinds
    assert objects(north.client) == []


@pytest.mark.parametrize("fields", [{"metadata": "{}"}, {"classifier": None}, {"priority": "never"}])
def test_a_wrong_field_is_named(fields: dict[str, Any], north: Caller) -> None:
    body = problem_of(north.send(PNG, path="/v1/batches", modality="xray", **fields), 422, "invalid-request")
    assert [error["field"] for error in body["errors"]] == list(fields)
