"""Patients' identities: taken off DICOM on every way in, kept where a tenant wants it, and found nowhere else."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from api.http.services import EXTENSION
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Base, Image, Upload
from shared.errors import CorruptImage
from shared.imaging.preprocess import InputSpec
from shared.jobs.claims import Outcome
from shared.storage import FolderStorage
from tests.support.api import (
    PNG,
    XRAY_DICOM,
    Caller,
    claim_all,
    finish,
    json_of,
    keep_identities,
    multipart,
    objects,
    part,
    record_log,
    work,
)
from tests.support.batches import output, packed, post_lines, post_zip, upload
from tests.support.files.images import dicom_bytes
from tests.support.rows import answer
from tests.support.servers.webhook_receiver import Receiver
from worker.classify.load import Loader
from worker.deliver.handler import Deliver

CANARY = "KANARIENVOGEL"


def identified(study_uid: str = "1.2.3.4", **elements: Any) -> bytes:
    """An X-ray with a patient's name in it wherever there is room."""
    dataset = dcmread(io.BytesIO(XRAY_DICOM))
    dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID = f"{CANARY}^ANNA", CANARY, study_uid
    dataset.PatientComments = dataset.StudyDescription = dataset.InstitutionName = CANARY
    item = Dataset()
    item.PatientName = CANARY
    dataset.VOILUTSequence = Sequence([item])
    dataset.private_block(0x0011, CANARY, create=True).add_new(1, "LO", CANARY)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return CANARY.encode().ljust(128, b"\0") + dicom_bytes(dataset)[128:]


def stored(caller: Caller) -> list[bytes]:
    storage = caller.client.application.extensions[EXTENSION].storage
    return [storage.get(key) for key in objects(caller.client)]


def by_form(caller: Caller, content: bytes) -> str:
    return str(json_of(caller.send(content), 202)["study_id"])


def by_study(caller: Caller, content: bytes) -> str:
    return str(json_of(caller.send(content, path="/v1/studies"), 201)["id"])


def by_pieces(caller: Caller, content: bytes) -> str:
    study_id = json_of(caller.post("/v1/studies", json={"open": True, "modality": "xray"}), 201)["id"]
    json_of(caller.send(content, path=f"/v1/studies/{study_id}/images", classifier=None))
    return str(study_id)


def by_archive(caller: Caller, content: bytes) -> str:
    batch = json_of(post_zip(caller, packed(("a/x.dcm", content)), group_by="study"), 202)
    return str(output(caller, batch["id"], "results")[0]["job"]["study_id"])


def by_upload(caller: Caller, content: bytes) -> str:
    batch = json_of(post_lines(caller, {"upload_id": upload(caller, content)}), 202)
    return str(output(caller, batch["id"], "results")[0]["job"]["study_id"])


WAYS = [by_form, by_study, by_pieces, by_archive, by_upload]


@pytest.mark.parametrize("way", WAYS)
def test_dicom_is_deidentified_on_every_way_in(way: Any, north: Caller) -> None:
    study = json_of(north.get(f"/v1/studies/{way(north, identified(BurnedInAnnotation='YES'))}"))
    (kept,) = stored(north)
    assert CANARY.encode() not in kept
    (image,) = study["images"]
    assert {"PatientComments", "private"} <= set(image["deidentified"]["removed"])
    assert {"PatientName", "StudyInstanceUID"} <= set(image["deidentified"]["replaced"])
    assert image["burned_in_annotation"]
    assert image["problem"] is None


@pytest.mark.parametrize("way", WAYS)
def test_a_tenant_may_keep_them_as_they_are_but_for_the_preamble(
    way: Any, north: Caller, clean_database: Database
) -> None:
    keep_identities(clean_database)
    sent = identified()
    (image,) = json_of(north.get(f"/v1/studies/{way(north, sent)}"))["images"]
    assert stored(north) == [bytes(128) + sent[128:]]
    assert image["deidentified"] is None
    assert not image["burned_in_annotation"]


def test_a_job_says_that_text_is_burned_in(north: Caller, clean_database: Database) -> None:
    burned = json_of(north.send(identified(BurnedInAnnotation="YES"), PNG), 202)
    plain = json_of(north.send(identified(BurnedInAnnotation="NO")), 202)
    assert (burned["burned_in_annotation"], plain["burned_in_annotation"]) == (True, False)
    work(clean_database)
    assert json_of(north.get(f"/v1/jobs/{burned['id']}"))["burned_in_annotation"]
    again = json_of(north.post("/v1/jobs", json={"study_id": burned["study_id"], "classifier": "binary"}), 202)
    assert again["burned_in_annotation"]


def test_uids_are_the_same_within_a_tenant_and_others_elsewhere(north: Caller, south: Caller) -> None:
    for caller, way in ((north, by_form), (north, by_upload), (south, by_form)):
        way(caller, identified(study_uid="1.2.3.4"))
    uids: dict[str, set[str]] = {}
    storage = north.client.application.extensions[EXTENSION].storage
    for key in objects(north.client):
        uids.setdefault(key.partition("/")[0], set()).add(str(dcmread(io.BytesIO(storage.get(key))).StudyInstanceUID))
    first, second = uids.values()
    assert (len(first), len(second)) == (1, 1)
    assert first != second


def test_the_same_file_is_the_same_wherever_it_came_in(north: Caller, clean_database: Database) -> None:
    content = identified()
    for way in (by_form, by_upload, by_archive):
        way(north, content)
    with clean_database.transaction() as session:
        assert len(set(session.scalars(sa.select(Image.sha256)))) == 1
    key = {"Idempotency-Key": "k"}
    first = json_of(north.send(content, headers=key), 202)
    assert json_of(north.send(content, headers=key), 202)["id"] == first["id"]


def test_an_archive_that_broke_off_knows_its_files_again(north: Caller) -> None:
    archive = packed(("a.dcm", identified("1.2")), ("b.dcm", identified("1.3")))
    at = archive.index(b"PK\x03\x04", 4)
    assert post_zip(north, archive[: at + 500], key="k").status_code == 400
    batch = json_of(post_zip(north, archive, key="k"), 202)
    assert batch["counts"]["queued"] == 2
    other = packed(("a.dcm", identified("1.9")), ("b.dcm", identified("1.3")))
    assert post_zip(north, other[: at + 500], key="j").status_code == 400
    assert post_zip(north, archive, key="j").status_code == 422


def test_a_direct_upload_that_is_completed_twice_leaves_one_object(north: Caller, clean_database: Database) -> None:
    upload_id = upload(north, identified())
    before = stored(north)
    view = json_of(north.post(f"/v1/uploads/{upload_id}/complete"))
    assert stored(north) == before
    with clean_database.transaction() as session:
        row = session.scalars(sa.select(Upload)).one()
    assert objects(north.client) == [row.object_key]
    assert view["sha256"] == row.sha256


def dump(database: Database, *tables: str) -> str:
    """Every row of these tables as text; of all tables when none is named."""
    with database.transaction() as session:
        return "\n".join(
            str([dict(row) for row in session.execute(sa.select(table)).mappings()])
            for table in Base.metadata.sorted_tables
            if not tables or table.name in tables
        )


def dump_redis(settings: Settings) -> str:
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        keys = client.keys("*")
        texts = [repr((key, client.dump(key))) for key in keys]
        return "\n".join(texts)


def test_no_canary_is_found_where_it_does_not_belong(
    north: Caller,
    clean_database: Database,
    settings: Settings,
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names in DICOM, in what the client attaches, in names of files and members, and in bad input."""
    logged = record_log(monkeypatch)
    attached: dict[str, Any] = {"external_id": f"{CANARY}-ext", "metadata": json.dumps({"patient": CANARY})}
    north.post("/v1/webhook-endpoints", json={"url": receiver.url, "events": ["*"]})
    json_of(north.send(identified(), headers={"Idempotency-Key": CANARY}, **attached), 202)
    named = f'Content-Disposition: form-data; name="files"; filename="{CANARY}.dcm"', identified("1.7")
    json_of(north.post("/v1/jobs", **multipart(named, part("classifier", b"binary"))), 202)
    by_upload(north, identified("1.5"))
    members = (f"{CANARY}/x.dcm", identified("1.6")), (f"{CANARY}/bad.dcm", identified()[:-1000])
    batch = json_of(post_zip(north, packed(*members), external_id=CANARY), 202)
    unknown: dict[str, Any] = {CANARY: CANARY}
    bad = [
        north.send(identified(Modality=CANARY)),
        north.send(identified(Rows=0)),
        north.send(identified()[:300] + CANARY.encode()),
        north.send(identified(), **unknown),
        north.post("/v1/jobs", json={CANARY: CANARY, "study_id": CANARY}),
        north.get(f"/v1/jobs/{CANARY}"),
        post_zip(north, packed((f"../{CANARY}.dcm", identified()))),
    ]
    assert all(response.status_code in {404, 422} for response in bad)
    # An unknown field, and a member of an archive, is named to whoever sent it; nothing else of the request is.
    named_to_sender = (f'"field":"{CANARY}"', f'"pointer":"#/{CANARY}"', f'"member":"../{CANARY}.dcm"')
    texts = [response.text for response in bad]
    for told in named_to_sender:
        texts = [text.replace(told, "") for text in texts]
    claims = claim_all(clean_database)
    finish(clean_database, *(answer(claim) for claim in claims[1:]))
    loader = Loader(FolderStorage(tmp_path / "objects"), settings, lambda: None)
    for claim in claims:  # as a worker sees them
        loader.load([claim], InputSpec(size=56)).results()
    finish(clean_database, Outcome(claims[0], error=CorruptImage()))
    deliver = Deliver(settings, clean_database)
    deliver.drain(threading.Event())
    deliver.close()
    assert json_of(north.get(f"/v1/batches/{batch['id']}"))["counts"]["rejected"] == 1
    assert len(receiver.requests) >= 4
    places = {
        "logs": logged.getvalue(),
        "metrics": north.client.get("/metrics").text,
        "errors": "\n".join(texts),
        "webhooks": str(receiver.requests),
        "redis": dump_redis(settings),
        "object keys": "\n".join(objects(north.client)),
        "file names": "\n".join(str(path) for path in tmp_path.rglob("*")),
        "objects": b"\n".join(stored(north)).decode("latin-1"),
        "what is recorded": dump(clean_database, "images", "results", "artifacts", "audit_log", "events", "deliveries"),
    }
    assert [place for place, text in places.items() if CANARY.lower() in text.lower()] == []
    assert "batch.submitted" in places["logs"]
    # What the client itself attached is in its rows, and shown to it alone.
    assert CANARY in dump(clean_database, "jobs")
    assert f"{CANARY}.dcm" in dump(clean_database, "studies")
