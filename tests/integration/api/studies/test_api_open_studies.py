"""Studies in pieces: opened, filled, and closed once, whoever closes them."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from pydantic import SecretStr

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import AuditEntry, Job, Study
from shared.storage import open_storage
from shared.studies.rows import content_sha256
from standalone.services import free_port
from tests.integration.api.studies.test_api_uploads import sha256, upload
from tests.support.api import (
    CT_DICOM,
    PNG,
    TEXT,
    XRAY_DICOM,
    Caller,
    MakeApp,
    fields_of,
    json_of,
    keep_identities,
    new_key,
    objects,
    problem_of,
    work,
)
from tests.support.files.images import make_dicom
from worker.sweep import Sweep


def begin(caller: Caller, **fields: Any) -> str:
    """An open study; its id."""
    body = {"open": True, "modality": "xray"} | fields
    study: str = json_of(caller.post("/v1/studies", json=body), 201)["id"]
    return study


def add(caller: Caller, study_id: str, *files: bytes, **options: Any) -> Any:
    return caller.send(*files, path=f"/v1/studies/{study_id}/images", classifier=None, **options)


def shown(caller: Caller, study_id: str) -> Any:
    return json_of(caller.get(f"/v1/studies/{study_id}"))


def piece(number: int) -> bytes:
    """A CT slice of its own."""
    return make_dicom(np.full((16, 16), number, np.uint8), modality="CT")


def test_a_study_is_filled_and_closed_by_hand(north: Caller, clean_database: Database) -> None:
    keep_identities(clean_database)
    body = {"external_id": "E", "metadata": {"a": 1}, "classifiers": ["binary", "ensemble"], "priority": "stat"}
    study_id = begin(north, **body)
    empty = shown(north, study_id)
    assert (empty["open"], empty["images"], empty["jobs"], empty["classifiable"]) == (True, [], [], False)
    assert empty["closes_at"]
    first = json_of(add(north, study_id, PNG))
    assert first["files"] == [{"file": 0, "status": "added"}]
    assert first["study"]["closes_at"] > empty["closes_at"]
    json_of(add(north, study_id, XRAY_DICOM, TEXT))
    closed = json_of(north.post(f"/v1/studies/{study_id}/complete"))
    assert (closed["open"], closed["closes_at"], closed["classifiable"]) == (False, None, True)
    assert [(image["file"], bool(image["problem"])) for image in closed["images"]] == [
        (0, False),
        (1, False),
        (2, True),
    ]
    jobs = [json_of(north.get(f"/v1/jobs/{job_id}")) for job_id in closed["jobs"]]
    assert [(job["classifier"], job["priority"], job["external_id"], job["metadata"]) for job in jobs] == [
        ("binary", "stat", "E", {"a": 1}),
        ("ensemble", "stat", "E", {"a": 1}),
    ]
    assert {job["image_count"] for job in jobs} == {3}
    work(clean_database)
    assert json_of(north.get(f"/v1/jobs/{closed['jobs'][0]}"))["status"] == "succeeded"
    with clean_database.transaction() as session:
        content = session.scalars(sa.select(Study.content_sha256)).one()
        acts = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert content == content_sha256([(sha256(PNG), 0), (sha256(XRAY_DICOM), 0), (sha256(TEXT), 0)])
    assert [act for act in acts if act.startswith(("study", "job"))] == [
        "study.create", "study.add_images", "study.add_images", "study.close", "job.submit", "job.submit",
    ]  # fmt: skip


def test_completing_again_changes_nothing(north: Caller) -> None:
    study_id = begin(north, classifiers=["binary"])
    json_of(add(north, study_id, PNG))
    first, again = (json_of(north.post(f"/v1/studies/{study_id}/complete")) for _ in range(2))
    assert first == again
    assert len(first["jobs"]) == 1
    problem_of(add(north, study_id, XRAY_DICOM), 409, "conflict")
    assert len(objects(north.client)) == 1


def test_the_last_expected_image_closes_it(north: Caller) -> None:
    study_id = begin(north, modality="ct", expected_images=4, classifiers=["binary"])
    series = make_dicom(np.zeros((16, 16), np.uint8), modality="CT", frames=3)
    assert json_of(add(north, study_id, series))["study"]["open"]
    last = json_of(add(north, study_id, CT_DICOM))["study"]
    assert (last["open"], len(last["images"]), len(last["jobs"])) == (False, 4, 1)
    # Sent again because its answer was lost: that is no conflict.
    assert json_of(add(north, study_id, CT_DICOM))["files"] == [{"file": 0, "status": "already-there"}]


def test_a_study_may_be_opened_with_all_that_is_expected(north: Caller) -> None:
    body = {"open": True, "modality": "xray", "expected_images": 1, "classifiers": ["binary"]}
    made = json_of(north.post("/v1/studies", json=body | {"upload_ids": upload(north, PNG)}), 201)
    assert (made["open"], len(made["images"]), len(made["jobs"])) == (False, 1, 1)


def test_the_same_bytes_are_one_image(north: Caller) -> None:
    study_id = begin(north)
    first = json_of(add(north, study_id, PNG, XRAY_DICOM, PNG))
    assert [file["status"] for file in first["files"]] == ["added", "added", "already-there"]
    (twice,) = upload(north, PNG)
    path = f"/v1/studies/{study_id}/images"
    again = json_of(north.post(path, json={"upload_ids": [twice]}))
    assert again["files"] == [{"file": 0, "status": "already-there"}]
    assert [image["file"] for image in again["study"]["images"]] == [0, 1]


def test_uploads_and_files_are_added_side_by_side(north: Caller, clean_database: Database) -> None:
    keep_identities(clean_database)
    study_id = begin(north, modality="ct")
    json_of(north.post(f"/v1/studies/{study_id}/images", json={"upload_ids": upload(north, piece(1), piece(2))}))
    images = json_of(add(north, study_id, piece(3)))["study"]["images"]
    assert [image["sha256"] for image in images] == [sha256(piece(number)) for number in (1, 2, 3)]
    assert [image["file"] for image in images] == [0, 1, 2]


def test_a_piece_is_added_once(north: Caller) -> None:
    study_id, key = begin(north), {"Idempotency-Key": "piece"}
    first, again = (add(north, study_id, PNG, headers=key) for _ in range(2))
    assert json_of(first)["files"] == [{"file": 0, "status": "added"}]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert json_of(again)["files"] == [{"file": 0, "status": "already-there"}]
    problem_of(add(north, study_id, XRAY_DICOM, headers=key), 422, "idempotency-key-reused")
    path, (upload_id,) = f"/v1/studies/{study_id}/images", upload(north, XRAY_DICOM)
    for _ in range(2):
        answer = north.post(path, json={"upload_ids": [upload_id]}, headers={"Idempotency-Key": "uploads"})
        assert len(json_of(answer)["study"]["images"]) == 2
    assert len(objects(north.client)) == 2


def test_a_piece_that_does_not_fit_is_refused(north: Caller) -> None:
    study_id = begin(north)
    assert fields_of(add(north, study_id, CT_DICOM)) == ["modality"]
    problem_of(add(north, study_id, TEXT), 422, "unsupported-image")
    assert fields_of(add(north, study_id, PNG, priority="stat")) == ["priority"]
    assert shown(north, study_id)["images"] == []
    assert objects(north.client) == []


def test_an_open_study_has_as_many_files_as_any(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_files=2).test_client(), new_key(clean_database))
    study_id = begin(caller, modality="ct")
    json_of(add(caller, study_id, piece(1), piece(2)))
    problem_of(add(caller, study_id, piece(3)), 422, "invalid-request")
    assert len(objects(caller.client)) == 2


def test_an_open_study_is_not_classified(north: Caller) -> None:
    study_id = begin(north)
    json_of(add(north, study_id, PNG))
    body = {"study_id": study_id, "classifier": "binary"}
    problem_of(north.post("/v1/jobs", json=body), 409, "study-open")
    json_of(north.post(f"/v1/studies/{study_id}/complete"))
    json_of(north.post("/v1/jobs", json=body), 202)
    assert len(shown(north, study_id)["jobs"]) == 1


def test_a_study_without_a_readable_image_has_no_job(north: Caller, clean_database: Database) -> None:
    study_id = begin(north, classifiers=["binary"])
    closed = json_of(north.post(f"/v1/studies/{study_id}/complete"))
    assert (closed["open"], closed["classifiable"], closed["jobs"]) == (False, False, [])
    problem_of(north.post("/v1/jobs", json={"study_id": study_id, "classifier": "binary"}), 409, "conflict")
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Job)).all() == []
        assert session.scalars(sa.select(Study.content_sha256)).one() is None


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["upload_ids"]),
        ({"open": True}, ["modality"]),
        ({"open": True, "modality": "ct", "classifiers": ["ensemble"]}, ["classifier"]),
        ({"open": True, "modality": "ct", "classifiers": ["binary", "binary"]}, ["classifiers"]),
        ({"open": True, "modality": "ct", "expected_images": 0}, ["expected_images"]),
        ({"open": True, "modality": "ct", "quiet_seconds": 0}, ["quiet_seconds"]),
        ({"open": True, "modality": "ct", "quiet_seconds": 1e9}, ["quiet_seconds"]),
        ({"open": True, "modality": "ct", "files": []}, ["files"]),
        (
            {"modality": "ct", "expected_images": 1, "classifiers": ["binary"], "upload_ids": ["upl_0"]},
            ["classifiers", "expected_images"],
        ),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], wrong: list[str], north: Caller) -> None:
    assert fields_of(north.post("/v1/studies", json=body)) == wrong


def test_a_study_is_opened_once(north: Caller, clean_database: Database) -> None:
    body, key = {"open": True, "modality": "ct"}, {"Idempotency-Key": "open"}
    first, again = (json_of(north.post("/v1/studies", json=body, headers=key), 201) for _ in range(2))
    assert first == again
    with clean_database.transaction() as session:
        assert len(session.scalars(sa.select(Study)).all()) == 1


@pytest.fixture
def sweep(settings: Settings, clean_database: Database) -> Sweep:
    storage = open_storage(settings)
    storage.prepare()
    return Sweep(settings, clean_database, storage)


def test_a_quiet_study_is_closed_by_the_sweeper(north: Caller, sweep: Sweep, clean_database: Database) -> None:
    quiet, busy = begin(north, classifiers=["binary"]), begin(north, classifiers=["binary"])
    for study_id in (quiet, busy):
        json_of(add(north, study_id, PNG))
    with clean_database.transaction() as session:
        session.get_one(Study, quiet).quiet_until = sa.func.now() - timedelta(seconds=1)
    sweep.drain(threading.Event())
    assert (shown(north, quiet)["open"], len(shown(north, quiet)["jobs"])) == (False, 1)
    assert (shown(north, busy)["open"], shown(north, busy)["jobs"]) == (True, [])
    with clean_database.transaction() as session:
        actors = session.scalars(sa.select(AuditEntry.actor).where(AuditEntry.subject == quiet))
        assert "sweeper" in list(actors)


def test_the_quiet_period_is_the_settings_unless_the_study_has_its_own(
    make_app: MakeApp, clean_database: Database
) -> None:
    caller = Caller(make_app(study_quiet_seconds=1000).test_client(), new_key(clean_database))
    begin(caller), begin(caller, quiet_seconds=30.5)
    with clean_database.transaction() as session:
        assert list(session.scalars(sa.select(Study.quiet_seconds).order_by(Study.id))) == [1000, 30.5]


def test_many_closers_make_the_jobs_once(app: Flask, north: Caller, sweep: Sweep) -> None:
    study_id = begin(north, modality="ct", expected_images=4, classifiers=["binary"], quiet_seconds=0.001)
    together = threading.Barrier(10)
    codes: list[int] = []

    def run(number: int) -> None:
        caller = Caller(app.test_client(), north.key)
        together.wait()
        if number < 4:
            codes.append(add(caller, study_id, piece(number)).status_code)
        elif number < 9:
            codes.append(caller.post(f"/v1/studies/{study_id}/complete").status_code)
        else:
            sweep.drain(threading.Event())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = shown(north, study_id)
    assert codes.count(200) == 5 + len(study["images"])  # whoever came after the end got a conflict
    assert set(codes) <= {200, 409}
    assert len(study["jobs"]) == (1 if study["images"] else 0)
    assert len(objects(north.client)) == len(study["images"])


def test_pieces_that_come_at_once_all_count(app: Flask, north: Caller) -> None:
    study_id = begin(north, modality="ct", expected_images=6, classifiers=["binary"])

    def run(number: int) -> None:
        json_of(add(Caller(app.test_client(), north.key), study_id, piece(number)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = shown(north, study_id)
    assert sorted(image["file"] for image in study["images"]) == list(range(6))
    assert len(study["jobs"]) == 1


def test_a_study_closes_while_the_broker_is_away(make_app: MakeApp, clean_database: Database) -> None:
    app = make_app(redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"))
    caller = Caller(app.test_client(), new_key(clean_database))
    study_id = begin(caller, classifiers=["binary"])
    json_of(add(caller, study_id, PNG))
    assert len(json_of(caller.post(f"/v1/studies/{study_id}/complete"))["jobs"]) == 1
