"""Deletion, on request and by age: nothing is left but the tombstone and the audit log, whatever runs just then."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from admin.doctor import Doctor
from api.http.services import EXTENSION
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import (
    AuditEntry,
    Base,
    Batch,
    BatchRejection,
    Delivery,
    Image,
    Job,
    Result,
    Study,
    Tenant,
    Tombstone,
)
from shared.jobs import reuse
from shared.jobs.claims import Outcome
from shared.storage import FolderStorage, Storage
from tests.support.api import (
    PNG,
    TEXT,
    XRAY_DICOM,
    Caller,
    claim_all,
    finish,
    json_of,
    objects,
    problem_of,
    work,
)
from tests.support.batches import counts, packed, post_zip, upload
from tests.support.rows import BUNDLE, answer
from worker.sweep import Sweep

#: What may stay, and what was there before.
KEPT = {"tombstones", "audit_log", "tenants", "api_keys", "model_bundles", "webhook_endpoints"}


def left(database: Database) -> dict[str, int]:
    """Rows of the tables that a deletion empties, those without any left out."""
    with database.transaction() as session:
        counted = {
            table.name: session.scalar(sa.select(sa.func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
            if table.name not in KEPT
        }
    return {name: count for name, count in counted.items() if count}


def mentions(database: Database, *words: str) -> set[str]:
    """The tables in which one of the words is found anywhere."""
    with database.transaction() as session:
        rows = {table.name: str(session.execute(sa.select(table)).all()) for table in Base.metadata.sorted_tables}
    return {name for name, text in rows.items() if any(word in text for word in words)}


def delete(caller: Caller, study_id: str) -> None:
    assert caller.call("DELETE", f"/v1/studies/{study_id}").status_code == 204


def storage_of(caller: Caller) -> Storage:
    storage: Storage = caller.client.application.extensions[EXTENSION].storage
    return storage


def violations(caller: Caller, database: Database) -> list[str]:
    settings = caller.client.application.extensions[EXTENSION].settings
    doctor = Doctor(settings, database, storage_of(caller), repair=False)
    return [finding.invariant for finding in doctor.examine() if finding.ids]


@pytest.fixture
def sweep(settings: Settings, clean_database: Database, tmp_path: Path) -> Sweep:
    """The sweeper on the API's store."""
    return Sweep(settings, clean_database, FolderStorage(tmp_path / "objects"))


def test_nothing_is_left_but_the_tombstone_and_the_audit_log(north: Caller, clean_database: Database) -> None:
    json_of(north.post("/v1/webhook-endpoints", json={"url": "http://127.0.0.1:9/hook", "events": ["*"]}), 201)
    headers = {"Idempotency-Key": "k"}
    sent = json_of(north.send(PNG, XRAY_DICOM, TEXT, headers=headers, external_id="E", metadata='{"a": 1}'), 202)
    study_id = sent["study_id"]
    second = json_of(north.post("/v1/jobs", json={"study_id": study_id, "classifier": "ensemble"}), 202)
    work(clean_database)
    assert json_of(north.get(f"/v1/jobs/{sent['id']}"))["status"] == "succeeded"  # remembered by the API
    images = [image["id"] for image in json_of(north.get(f"/v1/studies/{study_id}"))["images"]]
    assert left(clean_database)
    delete(north, study_id)
    assert left(clean_database) == {}
    assert objects(north.client) == []
    assert mentions(clean_database, study_id) == {"tombstones", "audit_log"}
    assert mentions(clean_database, sent["id"], second["id"]) == {"audit_log"}
    assert mentions(clean_database, *images) == set()
    with clean_database.transaction() as session:
        (grave,) = session.scalars(sa.select(Tombstone))
        assert (grave.study_id, grave.object_keys) == (study_id, [])
        acts = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert [act for act in acts if not act.startswith(("key", "webhook"))] == ["job.submit"] * 2 + ["study.delete"] + [
        "job.delete"
    ] * 2
    for path in (f"/v1/studies/{study_id}", f"/v1/jobs/{sent['id']}", f"/v1/jobs/{sent['id']}/artifacts"):
        problem_of(north.get(path), 404, "not-found")
    problem_of(north.call("DELETE", f"/v1/studies/{study_id}"), 404, "not-found")
    problem_of(north.post("/v1/jobs", json={"study_id": study_id, "classifier": "binary"}), 404, "not-found")
    assert violations(north, clean_database) == []


def test_a_study_of_direct_uploads_goes_with_them(north: Caller, clean_database: Database) -> None:
    body = {"upload_ids": [upload(north, PNG), upload(north, XRAY_DICOM)], "modality": "xray"}
    delete(north, json_of(north.post("/v1/studies", json=body), 201)["id"])
    assert set(left(clean_database)) <= {"idempotency_keys"}
    assert objects(north.client) == []


def test_another_hospitals_study_is_unknown(north: Caller, south: Caller, clean_database: Database) -> None:
    study_id = north.submit()["study_id"]
    unknown = south.call("DELETE", "/v1/studies/stu_" + "0" * 32)
    foreign = south.call("DELETE", f"/v1/studies/{study_id}")
    assert problem_of(foreign, 404, "not-found")["detail"] == problem_of(unknown, 404, "not-found")["detail"]
    assert left(clean_database)["studies"] == 1


def test_a_worker_that_runs_it_just_then_brings_nothing_back(north: Caller, clean_database: Database) -> None:
    gone, other = north.submit(PNG), north.submit(PNG + b"x")
    claims = {claim.job_id: claim for claim in claim_all(clean_database)}
    delete(north, gone["study_id"])
    # What it has made of both is written in one go; that one is not there any more is no fault of the other.
    lost = finish(clean_database, answer(claims[gone["id"]]), answer(claims[other["id"]]))
    assert lost == [gone["id"]]
    problem_of(north.get(f"/v1/jobs/{gone['id']}"), 404, "not-found")
    assert json_of(north.get(f"/v1/jobs/{other['id']}"))["status"] == "succeeded"
    assert mentions(clean_database, gone["study_id"]) == {"tombstones", "audit_log"}
    assert len(objects(north.client)) == 1
    assert violations(north, clean_database) == []


def test_an_answer_that_was_taken_over_stays_with_whom_it_was_given_to(north: Caller, clean_database: Database) -> None:
    first = north.submit(PNG)
    work(clean_database)
    second, third = north.submit(PNG), north.submit(PNG)
    claims = claim_all(clean_database)
    with clean_database.transaction() as session:
        taken_over = reuse.earlier_answers(session, claims, BUNDLE)
    by_job = {claim.job_id: claim for claim in claims}

    def done(job_id: str) -> None:
        assert finish(clean_database, Outcome(by_job[job_id], answer=taken_over[job_id])) == []

    done(second["id"])
    assert json_of(north.get(f"/v1/jobs/{second['id']}"))["result"]["reused_from"] == first["id"]
    delete(north, first["study_id"])
    done(third["id"])  # a worker that had looked before
    with clean_database.transaction() as session:
        found = {row.job_id: row.reused_from for row in session.execute(sa.select(Result.job_id, Result.reused_from))}
    assert found == {second["id"]: None, third["id"]: first["id"]}
    assert violations(north, clean_database) == []


def test_a_batch_counts_what_is_left_and_is_completed_by_it(north: Caller, clean_database: Database) -> None:
    json_of(north.post("/v1/webhook-endpoints", json={"url": "http://127.0.0.1:9/hook", "events": ["*"]}), 201)
    members = [(f"{number}.png", PNG + bytes([number])) for number in range(3)]
    batch = json_of(post_zip(north, packed(*members, ("bad.png", TEXT))), 202)
    with clean_database.transaction() as session:
        jobs = session.scalars(sa.select(Job).order_by(Job.item)).all()
    claims = claim_all(clean_database)
    finish(clean_database, *(answer(claim) for claim in claims if claim.job_id == jobs[0].id))
    delete(north, jobs[0].study_id)  # done
    delete(north, jobs[1].study_id)  # under way
    found = json_of(north.get(f"/v1/batches/{batch['id']}"))
    assert found["counts"] == counts(total=2, running=1, rejected=1)
    assert found["status"] == "running"
    delete(north, jobs[2].study_id)
    found = json_of(north.get(f"/v1/batches/{batch['id']}"))
    assert (found["counts"], found["completed_at"] is None) == (counts(total=1, rejected=1), False)
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Delivery)) == 1  # that it is complete
    assert violations(north, clean_database) == []


def test_objects_that_could_not_be_removed_are_swept(
    north: Caller, clean_database: Database, sweep: Sweep, tmp_path: Path
) -> None:
    study_id = north.submit(PNG)["study_id"]
    incoming = tmp_path / "objects" / ".incoming"
    incoming.rmdir()  # the volume is not mounted
    delete(north, study_id)
    problem_of(north.get(f"/v1/studies/{study_id}"), 404, "not-found")
    incoming.mkdir()
    assert len(objects(north.client)) == 1
    sweep.drain(threading.Event())
    assert objects(north.client) == []
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Tombstone.object_keys)).one() == []


def test_an_open_study_takes_nothing_more_once_it_is_deleted(north: Caller, clean_database: Database) -> None:
    study_id = json_of(north.post("/v1/studies", json={"open": True, "modality": "xray"}), 201)["id"]
    path = f"/v1/studies/{study_id}/images"
    json_of(north.send(PNG, path=path, classifier=None))
    delete(north, study_id)
    problem_of(north.send(PNG + b"x", path=path, classifier=None), 404, "not-found")
    problem_of(north.post(f"/v1/studies/{study_id}/complete"), 404, "not-found")
    assert left(clean_database) == {}
    assert objects(north.client) == []


def test_who_asks_about_it_while_it_is_deleted_hears_that_it_is_gone(north: Caller, clean_database: Database) -> None:
    study_id = north.submit(PNG)["study_id"]
    answers: list[int] = []
    caller = Caller(north.client.application.test_client(), north.key)
    body = {"study_id": study_id, "classifier": "binary"}
    asking = threading.Thread(target=lambda: answers.append(caller.post("/v1/jobs", json=body).status_code))
    with clean_database.transaction() as session:
        session.execute(sa.select(Study.id).where(Study.id == study_id).with_for_update())
        asking.start()
        asking.join(0.5)
        assert asking.is_alive()  # it waits for the deletion
        session.execute(sa.text("DELETE FROM jobs"))
        session.execute(sa.text("DELETE FROM images"))
        session.execute(sa.text("DELETE FROM studies"))
    asking.join(20)
    assert answers == [404]


def age(database: Database, table: type[Study | Batch], row_id: str, days: int) -> str:
    """Make a row as old as it would be, by its id too; the new id."""
    then = datetime.now(UTC) - timedelta(days=days)
    new = f"{row_id[:4]}{int(then.timestamp() * 1000):012x}{row_id[16:]}"
    theirs = (Job.study_id, Image.study_id) if table is Study else (Job.batch_id, BatchRejection.batch_id)
    others = (*theirs, AuditEntry.subject)
    with database.transaction() as session:
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))  # the keys follow one by one
        session.execute(sa.update(table).where(table.id == row_id).values(id=new, created_at=then))
        for column in others:
            session.execute(sa.update(column.class_).where(column == row_id).values({column: new}))
    return new


def test_studies_are_deleted_when_they_are_as_old_as_their_tenant_keeps_them(
    north: Caller, south: Caller, clean_database: Database, sweep: Sweep
) -> None:
    old, young, foreign = (caller.submit(PNG)["study_id"] for caller in (north, north, south))
    batch = json_of(post_zip(north, packed(("x.png", TEXT), ("y.png", TEXT))), 202)["id"]
    work(clean_database)
    old, foreign = (age(clean_database, Study, study_id, 31) for study_id in (old, foreign))
    age(clean_database, Batch, batch, 31)
    with clean_database.transaction() as session:
        session.execute(sa.update(Tenant).where(Tenant.name == "north").values(expires_after_days=30))
    sweep.drain(threading.Event())
    problem_of(north.get(f"/v1/studies/{old}"), 404, "not-found")
    assert json_of(north.get(f"/v1/studies/{young}"))["jobs"]
    assert json_of(south.get(f"/v1/studies/{foreign}"))["id"] == foreign
    assert json_of(north.get("/v1/batches"))["data"] == []
    assert len(objects(north.client)) == 2
    with clean_database.transaction() as session:
        acts = session.execute(
            sa.select(AuditEntry.actor, AuditEntry.action).where(AuditEntry.actor == "retention")
        ).all()
    assert [tuple(act) for act in acts] == [("retention", f"{kind}.delete") for kind in ("study", "job", "batch")]
    assert "batch_rejections" not in left(clean_database)
    assert violations(north, clean_database) == []
