"""Direct uploads over HTTP, with the API's own addresses (folder) and with those of a real S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from api.http.services import EXTENSION
from api.uploads.content import own_address
from api.uploads.routes import HEADER_BYTES
from shared.db.engine import Database
from shared.db.tables import AuditEntry, Image, Job, Study, Upload, UploadState
from shared.storage import MinioStorage, Storage
from shared.studies.rows import content_sha256
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
)
from tests.support.files.images import make_dicom

if TYPE_CHECKING:
    from tests.conftest import S3

KEY = {"Idempotency-Key": "3f0a4d4e-upload"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def s3_changes(s3: S3) -> dict[str, Any]:
    return {
        "storage": "minio",
        "minio_endpoint": s3.endpoint,
        "minio_access_key": SecretStr(s3.access_key),
        "minio_secret_key": SecretStr(s3.secret_key),
        "minio_bucket": s3.bucket,
        "minio_secure": False,
    }


def announce(caller: Caller, *contents: bytes, **options: Any) -> list[dict[str, Any]]:
    files = [{"size_bytes": len(content), "sha256": sha256(content)} for content in contents]
    made: list[dict[str, Any]] = json_of(caller.post("/v1/uploads", json={"files": files}, **options), 201)["data"]
    return made


def put(caller: Caller, address: dict[str, Any], content: bytes) -> int:
    """The status of a PUT to the address, by somebody who has nothing but the address."""
    url = urlsplit(address["url"])
    if url.path.startswith("/uploads/"):
        path = f"{url.path}?{url.query}"
        return caller.client.put(path, data=content, headers=address["headers"]).status_code
    return httpx.request(address["method"], address["url"], content=content, headers=address["headers"]).status_code


def complete(caller: Caller, address: dict[str, Any]) -> Any:
    return caller.post(f"/v1/uploads/{address['id']}/complete")


def upload(caller: Caller, *contents: bytes) -> list[str]:
    """Complete uploads; their ids."""
    made = announce(caller, *contents)
    for address, content in zip(made, contents, strict=True):
        assert put(caller, address, content) in {200, 204}
        json_of(complete(caller, address))
    return [address["id"] for address in made]


def storage_of(caller: Caller) -> Storage:
    storage: Storage = caller.client.application.extensions[EXTENSION].storage
    return storage


@pytest.fixture(params=["folder", "minio"])
def sender(request: pytest.FixtureRequest, make_app: MakeApp, clean_database: Database) -> Caller:
    """A hospital whose files go to a folder, or to an S3 server."""
    changes = s3_changes(request.getfixturevalue("s3")) if request.param == "minio" else {}
    caller = Caller(make_app(**changes).test_client(), new_key(clean_database))
    for key in objects(caller.client):
        storage_of(caller).delete(key)
    return caller


def test_what_is_put_there_becomes_a_job(sender: Caller, clean_database: Database) -> None:
    keep_identities(clean_database)
    made = announce(sender, XRAY_DICOM, PNG)
    shown = json_of(sender.get(f"/v1/uploads/{made[0]['id']}"))
    assert (shown["state"], shown["media_type"], shown["sha256"]) == ("pending", None, sha256(XRAY_DICOM))
    for address, content in zip(made, (XRAY_DICOM, PNG), strict=True):
        assert put(sender, address, content) in {200, 204}
    first, second = (json_of(complete(sender, address)) for address in made)
    assert (first["state"], first["media_type"], first["modality"]) == ("complete", "application/dicom", "xray")
    assert (second["media_type"], second["frames"], second["modality"]) == ("image/png", 1, None)
    assert second["width"] > 1
    body = {"upload_ids": [address["id"] for address in made], "classifier": "binary", "metadata": {"a": 1}}
    job = json_of(sender.post("/v1/jobs", json=body), 202)
    assert (job["image_count"], job["modality"], job["metadata"]) == (2, "xray", {"a": 1})
    with clean_database.transaction() as session:
        images = session.scalars(sa.select(Image).order_by(Image.position)).all()
        study = session.scalars(sa.select(Study)).one()
    assert [(image.file_index, image.sha256) for image in images] == [(0, sha256(XRAY_DICOM)), (1, sha256(PNG))]
    assert [storage_of(sender).get(image.object_key or "") for image in images] == [XRAY_DICOM, PNG]
    assert study.content_sha256 == content_sha256([(sha256(XRAY_DICOM), 0), (sha256(PNG), 0)])
    assert json_of(sender.get(f"/v1/uploads/{made[0]['id']}"))["state"] == "used"


def test_the_same_bytes_have_the_same_content_either_way(north: Caller, clean_database: Database) -> None:
    json_of(north.post("/v1/studies", json={"upload_ids": upload(north, CT_DICOM)}), 201)
    json_of(north.send(CT_DICOM, path="/v1/studies"), 201)
    json_of(north.send(CT_DICOM, CT_DICOM, path="/v1/studies"), 201)
    with clean_database.transaction() as session:
        first, second, third = session.scalars(sa.select(Study.content_sha256).order_by(Study.id))
    assert first == second != third


def test_each_frame_of_an_uploaded_file_is_an_image(north: Caller) -> None:
    series = make_dicom(np.zeros((16, 16), np.uint8), modality="CT", frames=3)
    study = json_of(north.post("/v1/studies", json={"upload_ids": upload(north, series)}), 201)
    assert [(image["file"], image["frame"]) for image in study["images"]] == [(0, 0), (0, 1), (0, 2)]
    assert study["modality"] == "ct"


@pytest.mark.parametrize("content", [PNG[:-1], PNG + b"\0", PNG[:-1] + bytes([PNG[-1] ^ 1])])
def test_wrong_bytes_are_refused_and_may_be_sent_again(content: bytes, sender: Caller) -> None:
    (address,) = announce(sender, PNG)
    status = put(sender, address, content)
    if status == 200:  # this S3 server does not compare; the API does
        problem_of(complete(sender, address), 422, "upload-mismatch")
    else:
        assert status in {413, 422}
    problem_of(complete(sender, address), 409, "conflict")
    assert objects(sender.client) == []
    assert put(sender, address, PNG) in {200, 204}
    assert json_of(complete(sender, address))["state"] == "complete"


def test_bytes_that_are_no_image_are_refused(sender: Caller) -> None:
    (address,) = announce(sender, TEXT)
    assert put(sender, address, TEXT) in {200, 204}
    problem_of(complete(sender, address), 422, "unsupported-image")
    assert objects(sender.client) == []
    assert json_of(sender.get(f"/v1/uploads/{address['id']}"))["state"] == "pending"


def test_completing_again_changes_nothing(sender: Caller) -> None:
    (upload_id,) = upload(sender, PNG)
    before = json_of(sender.get(f"/v1/uploads/{upload_id}"))
    assert json_of(sender.post(f"/v1/uploads/{upload_id}/complete")) == before


def test_an_upload_that_is_deleted_leaves_nothing(sender: Caller) -> None:
    (upload_id,) = upload(sender, PNG)
    assert sender.call("DELETE", f"/v1/uploads/{upload_id}").status_code == 204
    problem_of(sender.get(f"/v1/uploads/{upload_id}"), 404, "not-found")
    assert objects(sender.client) == []


def test_an_upload_is_used_once(sender: Caller, clean_database: Database) -> None:
    (upload_id,) = upload(sender, PNG)
    body = {"upload_ids": [upload_id], "modality": "xray"}
    json_of(sender.post("/v1/studies", json=body), 201)
    problem_of(sender.post("/v1/studies", json=body), 409, "conflict")
    problem_of(sender.post("/v1/jobs", json=body | {"classifier": "binary"}), 409, "conflict")
    problem_of(sender.call("DELETE", f"/v1/uploads/{upload_id}"), 409, "conflict")
    assert len(objects(sender.client)) == 1
    with clean_database.transaction() as session:
        assert len(session.scalars(sa.select(Study)).all()) == 1


def test_what_refuses_a_study_leaves_its_uploads_unused(north: Caller, clean_database: Database) -> None:
    (good,) = upload(north, PNG)
    (pending,) = announce(north, XRAY_DICOM)
    problem_of(north.post("/v1/studies", json={"upload_ids": [good], "modality": None}), 422, "invalid-request")
    body: dict[str, Any] = {"modality": "xray", "classifier": "binary"}
    problem_of(north.post("/v1/jobs", json=body | {"upload_ids": [good, good]}), 409, "conflict")
    problem_of(north.post("/v1/jobs", json=body | {"upload_ids": [good, pending["id"]]}), 409, "conflict")
    problem_of(north.post("/v1/jobs", json=body | {"upload_ids": [good, "upl_" + "0" * 32]}), 404, "not-found")
    wrong = body | {"upload_ids": [good], "modality": "ct", "classifier": "ensemble"}
    assert fields_of(north.post("/v1/jobs", json=wrong)) == ["classifier"]
    with clean_database.transaction() as session:
        assert not session.scalars(sa.select(Study)).all()
        assert not session.scalars(sa.select(Job)).all()
    json_of(north.post("/v1/jobs", json=body | {"upload_ids": [good]}), 202)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, "study_id"),
        ({"study_id": "stu_" + "0" * 32, "upload_ids": ["upl_" + "0" * 32]}, "study_id"),
        ({"study_id": "stu_" + "0" * 32, "modality": "ct"}, "modality"),
        ({"upload_ids": ["nonsense"]}, "upload_ids.0"),
    ],
)
def test_a_job_has_one_source(body: dict[str, Any], wrong: str, north: Caller) -> None:
    assert fields_of(north.post("/v1/jobs", json={"classifier": "binary"} | body)) == [wrong]


@pytest.mark.parametrize(
    "file",
    [
        {"size_bytes": 0, "sha256": "0" * 64},
        {"size_bytes": 10, "sha256": "0" * 63},
        {"size_bytes": 10, "sha256": "A" * 64},
        {"size_bytes": 10**12, "sha256": "0" * 64},
        {"size_bytes": 10, "sha256": "0" * 64, "name": "x.png"},
    ],
)
def test_a_file_that_cannot_come_is_not_announced(file: dict[str, Any], north: Caller) -> None:
    (field,) = fields_of(north.post("/v1/uploads", json={"files": [file]}))
    assert field.startswith("files.0.")


def test_a_thousand_files_are_announced_at_once_and_no_more(north: Caller) -> None:
    files = [{"size_bytes": 1, "sha256": f"{n:064x}"} for n in range(1001)]
    assert fields_of(north.post("/v1/uploads", json={"files": files})) == ["files"]
    made = json_of(north.post("/v1/uploads", json={"files": files[:1000]}), 201)["data"]
    assert len({address["id"] for address in made}) == 1000
    last = json_of(north.get(f"/v1/uploads/{made[-1]['id']}"))
    assert last["sha256"] == f"{999:064x}"


def test_a_tenant_has_so_many_pending_uploads(make_app: MakeApp, clean_database: Database) -> None:
    app = make_app(max_pending_uploads=3)
    mine, other = (Caller(app.test_client(), new_key(clean_database, tenant=tenant)) for tenant in ("north", "south"))
    files = [{"size_bytes": 1, "sha256": f"{n:064x}"} for n in range(4)]
    problem_of(mine.post("/v1/uploads", json={"files": files}), 429, "too-many-uploads")
    first, *_ = json_of(mine.post("/v1/uploads", json={"files": files[:3]}), 201)["data"]
    refused = mine.post("/v1/uploads", json={"files": files[3:]})
    assert "3 pending uploads" in problem_of(refused, 429, "too-many-uploads")["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    json_of(other.post("/v1/uploads", json={"files": files[3:]}), 201)
    assert mine.call("DELETE", f"/v1/uploads/{first['id']}").status_code == 204
    json_of(mine.post("/v1/uploads", json={"files": files[3:]}), 201)
    with clean_database.transaction() as session:
        session.execute(sa.update(Upload).values(expires_at=sa.func.now()))
    json_of(mine.post("/v1/uploads", json={"files": files[3:]}), 201)


def test_files_are_announced_once(north: Caller) -> None:
    made = announce(north, PNG, CT_DICOM, headers=KEY)
    files = [{"size_bytes": len(content), "sha256": sha256(content)} for content in (PNG, CT_DICOM)]
    answer = north.post("/v1/uploads", json={"files": files}, headers=KEY)
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert [address["id"] for address in json_of(answer, 201)["data"]] == [address["id"] for address in made]
    other = north.post("/v1/uploads", json={"files": files[:1]}, headers=KEY)
    problem_of(other, 422, "idempotency-key-reused")
    assert put(north, answer.get_json()["data"][0], PNG) == 204


def test_a_job_of_uploads_is_submitted_once(north: Caller, clean_database: Database) -> None:
    body = {"upload_ids": upload(north, PNG), "modality": "xray", "classifier": "binary"}
    first, again = (north.post("/v1/jobs", json=body, headers=KEY) for _ in range(2))
    assert json_of(again, 202)["id"] == json_of(first, 202)["id"]
    body = {"upload_ids": upload(north, PNG), "modality": "xray"}
    first, again = (north.post("/v1/studies", json=body, headers={"Idempotency-Key": "b"}) for _ in range(2))
    assert json_of(again, 201)["id"] == json_of(first, 201)["id"]
    with clean_database.transaction() as session:
        assert len(session.scalars(sa.select(Study)).all()) == 2
        acts = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.tenant_id.is_not(None))).all()
    assert acts.count("study.create") == acts.count("job.submit") == 1


def tampered(address: dict[str, Any]) -> Iterator[str]:
    """Addresses that are nearly the one that was given out."""
    url = urlsplit(address["url"])
    tenant, expires, signature = (part.partition("=")[2] for part in url.query.split("&"))
    path = f"{url.path}?tenant={tenant}"
    yield f"{path}&expires={int(expires) + 1}&signature={signature}"
    yield f"{path}&expires={expires}&signature={signature[:-1]}"
    yield f"{path}&expires={expires}&signature=" + ("A" if signature[0] != "A" else "B") + signature[1:]
    yield f"{path}&expires={expires}&signature="
    yield f"{path}0&expires={expires}&signature={signature}"
    yield url.path.replace(address["id"], "upl_" + "0" * 32) + f"?{url.query}"


def test_a_tampered_address_takes_nothing(north: Caller) -> None:
    first, second = announce(north, PNG, PNG)
    for path in tampered(first):
        problem_of(north.client.put(path, data=PNG), 403, "address-refused")
    swapped = urlsplit(first["url"])._replace(path=urlsplit(second["url"]).path).geturl()
    problem_of(north.client.put(swapped, data=PNG), 403, "address-refused")
    path = urlsplit(first["url"]).path
    assert fields_of(north.client.put(path, data=PNG)) == ["tenant", "expires", "signature"]
    # A key does not stand in for the signature.
    problem_of(north.call("PUT", next(tampered(first)), data=PNG), 403, "address-refused")
    assert objects(north.client) == []


def test_an_address_is_over_after_its_time(north: Caller, clean_database: Database) -> None:
    app = north.client.application
    (address,) = announce(north, PNG)
    with clean_database.transaction() as session:
        held = session.get_one(Upload, address["id"])
    with app.test_request_context():
        over = own_address(app.extensions[EXTENSION], held, timedelta(seconds=-1))
    problem_of(north.client.put(over.url, data=PNG), 403, "address-refused")
    assert objects(north.client) == []


def test_a_complete_upload_is_not_written_over(north: Caller) -> None:
    (address,) = announce(north, PNG)
    assert put(north, address, PNG) == 204
    json_of(complete(north, address))
    assert put(north, address, PNG) == 409


def test_a_body_of_another_length_is_refused_before_it_is_read(north: Caller) -> None:
    (address,) = announce(north, PNG)
    url = urlsplit(address["url"])
    response = north.client.put(f"{url.path}?{url.query}", data=PNG * 3)
    problem_of(response, 413, "payload-too-large")


def test_the_address_is_the_public_one(make_app: MakeApp, clean_database: Database, s3: S3) -> None:
    caller = Caller(make_app(public_url="https://thoraq.test").test_client(), new_key(clean_database))
    (address,) = announce(caller, PNG)
    assert address["url"].startswith(f"https://thoraq.test/uploads/{address['id']}/content?")
    app = make_app(minio_public_url="https://files.test:9000", **s3_changes(s3))
    (address,) = announce(Caller(app.test_client(), caller.key), PNG)
    assert address["url"].startswith(f"https://files.test:9000/{s3.bucket}/")
    assert "X-Amz-SignedHeaders=content-length%3Bhost%3Bx-amz-checksum-sha256" in address["url"]
    assert set(address["headers"]) == {"x-amz-checksum-sha256"}


def test_an_unfinished_upload_has_no_say_over_anothers(north: Caller, south: Caller) -> None:
    (theirs,) = upload(north, PNG)
    body = {"upload_ids": [theirs], "modality": "xray"}
    problem_of(south.post("/v1/studies", json=body), 404, "not-found")
    assert json_of(north.get(f"/v1/uploads/{theirs}"))["state"] == UploadState.COMPLETE
    json_of(north.post("/v1/studies", json=body), 201)


def test_bytes_that_the_store_has_compared_are_not_read(
    make_app: MakeApp, clean_database: Database, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(make_app(**s3_changes(s3)).test_client(), new_key(clean_database))
    keep_identities(clean_database)
    (address,) = announce(caller, XRAY_DICOM)
    # Amazon's S3 and MinIO compare whenever the checksum is there; this server wants to be told which one it is.
    address["headers"]["x-amz-sdk-checksum-algorithm"] = "SHA256"
    assert put(caller, address, XRAY_DICOM) == 200
    read: list[int] = []
    storage = storage_of(caller)

    def fail(key: str) -> None:
        raise AssertionError(f"{key} was read as a whole")

    def counted(key: str, offset: int, length: int) -> bytes:
        read.append(length)
        return MinioStorage.read(storage, key, offset, length)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "open", fail)
    monkeypatch.setattr(storage, "read", counted)
    assert json_of(complete(caller, address))["modality"] == "xray"
    assert sum(read) <= 3 * HEADER_BYTES
