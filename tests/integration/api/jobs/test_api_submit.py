"""POST /v1/jobs: what is accepted, what is refused and why."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import dcmread
from werkzeug.test import TestResponse

from api.jobs import lookup
from shared.db.engine import Database
from shared.db.tables import Job, Tenant
from tests.support.api import (
    CT_DICOM,
    PNG,
    TEXT,
    XRAY_DICOM,
    Caller,
    fields_of,
    file_part,
    json_of,
    multipart,
    objects,
    part,
    problem_of,
    work,
)
from tests.support.files.images import dicom_bytes, make_dicom, png_header


def without_pixels() -> bytes:
    """A DICOM object that is no image."""
    dataset = dcmread(BytesIO(CT_DICOM))
    del dataset.PixelData
    return dicom_bytes(dataset)


BAD = {
    "empty-file": b"",
    "unsupported-image": TEXT,
    "image-too-large": png_header(40_000, 40_000),
    "no-pixel-data": without_pixels(),
    "corrupt-image": PNG[:20],
}


def jobs_in(database: Database) -> int:
    with database.transaction() as session:
        return session.query(Job).count()


def test_a_file_becomes_a_queued_job(north: Caller) -> None:
    answer = north.send(PNG, modality="xray", external_id="A-7", metadata='{"ward": "3"}', priority="stat")
    job = json_of(answer, 202)
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert job["status"] == "queued"
    assert (job["classifier"], job["modality"], job["priority"]) == ("binary", "xray", "stat")
    assert (job["external_id"], job["metadata"]) == ("A-7", {"ward": "3"})
    assert job["image_count"] == 1
    assert job["started_at"] is job["finished_at"] is job["result"] is job["error"] is job["batch_id"] is None


def test_stat_beyond_the_tenants_share_is_answered_as_served_as_routine(
    north: Caller, clean_database: Database
) -> None:
    with clean_database.transaction() as session:
        session.execute(sa.update(Tenant).values(stat_share=1))
    first, second = (north.submit(PNG, priority="stat") for _ in range(2))
    assert (first["priority"], first["served_as"]) == ("stat", "stat")
    assert (second["priority"], second["served_as"]) == ("stat", "routine")
    assert json_of(north.get(f"/v1/jobs/{second['id']}")) == second


def test_several_files_are_one_study_in_their_order(north: Caller) -> None:
    job = north.submit(PNG, XRAY_DICOM, PNG)
    images = json_of(north.get(f"/v1/studies/{job['study_id']}"))["images"]
    assert job["image_count"] == 3
    assert [(image["file"], image["media_type"]) for image in images] == [
        (0, "image/png"),
        (1, "application/dicom"),
        (2, "image/png"),
    ]


def test_each_frame_of_a_dicom_file_is_an_image(north: Caller) -> None:
    series = make_dicom(np.zeros((16, 16), np.uint8), modality="CT", frames=3)
    job = north.submit(series, modality=None)
    images = json_of(north.get(f"/v1/studies/{job['study_id']}"))["images"]
    assert [(image["file"], image["frame"]) for image in images] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(("file", "modality"), [(CT_DICOM, "ct"), (XRAY_DICOM, "xray")])
def test_dicom_says_its_modality(file: bytes, modality: str, north: Caller) -> None:
    assert north.submit(file, modality=None)["modality"] == modality


@pytest.mark.parametrize(
    ("files", "fields", "wrong"),
    [
        ([CT_DICOM], {"modality": "xray"}, "modality"),
        ([CT_DICOM, XRAY_DICOM], {}, "modality"),
        ([PNG], {}, "modality"),
        ([PNG], {"modality": "mri"}, "modality"),
        ([PNG], {"modality": "ct", "classifier": "ensemble"}, "classifier"),
        ([CT_DICOM], {"classifier": "ensemble"}, "classifier"),
        ([PNG], {"modality": "xray", "classifier": None}, "classifier"),
        ([PNG], {"modality": "xray", "classifier": "best"}, "classifier"),
        ([PNG], {"modality": "xray", "priority": "now"}, "priority"),
        ([PNG], {"modality": "xray", "clasifier": "binary"}, "clasifier"),
        ([PNG], {"modality": "xray", "external_id": ""}, "external_id"),
        ([PNG], {"modality": "xray", "external_id": "x" * 201}, "external_id"),
        ([PNG], {"modality": "xray", "external_id": "a\0b"}, "external_id"),
        ([PNG], {"modality": "xray", "external_id": "a\nb"}, "external_id"),
        ([], {"modality": "xray"}, "files"),
    ],
)
def test_a_wrong_field_is_named(
    files: list[bytes], fields: dict[str, Any], wrong: str, north: Caller, clean_database: Database
) -> None:
    assert fields_of(north.send(*files, **fields)) == [wrong]
    assert jobs_in(clean_database) == 0
    assert objects(north.client) == []


@pytest.mark.parametrize(
    "metadata",
    [
        "[1]",
        "7",
        "null",
        "{",
        '{"a": "\\u0000"}',
        '{"\\u0000": 1}',
        '{"a": "\\\\\\u0000"}',
        '{"a": "\\ud800"}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": "' + "x" * 16_384 + '"}',
        '{"a": ' * 500 + "1" + "}" * 500,
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_metadata_that_cannot_be_kept_is_refused(metadata: str, north: Caller) -> None:
    wrong = fields_of(north.send(PNG, modality="xray", metadata=metadata))
    assert {field.partition(".")[0] for field in wrong} == {"metadata"}


def test_metadata_keeps_what_only_looks_like_an_escape(north: Caller) -> None:
    job = north.submit(metadata='{"a": "\\\\u0000", "b": "ä\\ud83d\\ude00", "c": {"d": [1.5, null, true]}}')
    assert job["metadata"] == {"a": "\\u0000", "b": "ä😀", "c": {"d": [1.5, None, True]}}


@pytest.mark.parametrize("name", ["external_id", "metadata", "classifier"])
def test_bytes_that_are_no_utf8_are_refused(name: str, north: Caller) -> None:
    fields = {"classifier": b"binary", "modality": b"xray"} | {name: b'{"a": "\xff"}'}
    body = multipart(file_part(PNG), *(part(field, value) for field, value in fields.items()))
    assert fields_of(north.post("/v1/jobs", **body)) == [name]


def test_files_under_another_name_are_not_dropped_silently(north: Caller) -> None:
    body = multipart(file_part(PNG), file_part(PNG, name="file"), part("classifier", b"binary"))
    assert fields_of(north.post("/v1/jobs", **body)) == ["file"]


def test_a_field_that_is_given_twice_is_refused(north: Caller) -> None:
    body = multipart(file_part(PNG), part("classifier", b"binary"), part("classifier", b"ensemble"))
    assert fields_of(north.post("/v1/jobs", **body)) == ["classifier"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/batches"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_another_content_type_is_unsupported(path: str, content_type: str, north: Caller) -> None:
    answer = north.post(path, data=b"classifier=binary", content_type=content_type)
    problem_of(answer, 415, "unsupported-media-type")


WHOLE = multipart(file_part(PNG), part("classifier", b"binary"), part("modality", b"xray"))


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/batches"])
@pytest.mark.parametrize(
    "body",
    [
        WHOLE | {"content_type": "multipart/form-data"},
        WHOLE | {"content_type": "multipart/form-data; boundary=other"},
        WHOLE | {"data": WHOLE["data"][:-12]},
        WHOLE | {"data": WHOLE["data"][: len(PNG) // 2]},
    ],
    ids=["no boundary", "other boundary", "no end", "half"],
)
def test_a_malformed_form_is_a_bad_request(
    path: str, body: dict[str, Any], north: Caller, clean_database: Database
) -> None:
    problem_of(north.post(path, **body), 400, "bad-request")
    assert jobs_in(clean_database) == 0


def test_a_body_that_is_shorter_than_announced_is_no_job(north: Caller, clean_database: Database) -> None:
    answer = north.post("/v1/jobs", **WHOLE, environ_overrides={"CONTENT_LENGTH": str(len(WHOLE["data"]) + 100)})
    problem_of(answer, 400, "bad-request")
    assert jobs_in(clean_database) == 0


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_does_not_spoil_the_good_ones(kind: str, north: Caller) -> None:
    job = north.submit(PNG, BAD[kind], PNG)
    images = json_of(north.get(f"/v1/studies/{job['study_id']}"))["images"]
    assert [image["problem"] and image["problem"]["type"] for image in images] == [None, kind, None]
    assert images[1]["problem"]["title"]
    assert len(objects(north.client)) == 2


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies"])
@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_all_bad_are_refused(kind: str, path: str, north: Caller) -> None:
    problem_of(north.send(BAD[kind], path=path, modality="xray"), 422, kind)
    assert objects(north.client) == []


def test_each_of_several_bad_files_is_explained(north: Caller) -> None:
    body = problem_of(north.send(TEXT, b"", modality="xray"), 422, "unsupported-image")
    assert [(item["file"], item["type"]) for item in body["files"]] == [(0, "unsupported-image"), (1, "empty-file")]


def again(north: Caller, **body: Any) -> TestResponse:
    return north.post("/v1/jobs", json={"classifier": "binary"} | body)


def test_another_classifier_runs_on_a_stored_study(north: Caller) -> None:
    study = json_of(north.send(PNG, path="/v1/studies", modality="xray", metadata='{"a": 1}', external_id="E"), 201)
    job = json_of(again(north, study_id=study["id"], classifier="ensemble"), 202)
    assert (job["study_id"], job["classifier"]) == (study["id"], "ensemble")
    assert (job["external_id"], job["metadata"]) == ("E", {"a": 1})
    job = json_of(again(north, study_id=study["id"], external_id="F", metadata={"b": 2}, priority="bulk"), 202)
    assert (job["external_id"], job["metadata"], job["priority"]) == ("F", {"b": 2}, "bulk")


def test_the_ensemble_refuses_a_stored_ct_study(north: Caller) -> None:
    study = json_of(north.send(CT_DICOM, path="/v1/studies"), 201)
    assert fields_of(again(north, study_id=study["id"], classifier="ensemble")) == ["classifier"]


@pytest.mark.parametrize(
    ("wrong", "body"),
    [
        ("study_id", {"study_id": "stu_\0"}),
        ("study_id", {"study_id": "nonsense"}),
        ("study_id", {"study_id": "stu_" + "0" * 10_000}),
        ("study_id", {"study_id": 7}),
        ("external_id", {"external_id": "\ud800"}),
        ("external_id", {"external_id": "\0"}),
        ("metadata", {"metadata": {"a": "\0"}}),
        ("metadata", {"metadata": {"a": "\udfff"}}),
        ("metadata", {"metadata": {"\ud800": 1}}),
        ("metadata", {"metadata": {"a": float("inf")}}),
        ("metadata", {"metadata": "text"}),
        ("files", {"files": []}),
    ],
)
def test_a_wrong_field_of_json_is_named(wrong: str, body: dict[str, Any], north: Caller) -> None:
    assert fields_of(again(north, **{"study_id": "stu_" + "0" * 32} | body)) == [wrong]


@pytest.mark.parametrize("data", [b"{", b"", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/webhook-endpoints"])
def test_malformed_json_is_a_bad_request(data: bytes, path: str, north: Caller) -> None:
    problem_of(north.post(path, data=data, content_type="application/json"), 400, "bad-request")


@pytest.mark.parametrize("data", [b"null", b"[]", b"7", b'"text"'])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/webhook-endpoints"])
def test_json_that_is_no_object_is_invalid(data: bytes, path: str, north: Caller) -> None:
    problem_of(north.post(path, data=data, content_type="application/json"), 422, "invalid-request")


def test_a_queued_job_knows_its_place(north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "PLACE_SECONDS", 0)  # a place is remembered for a moment otherwise
    first, second = north.submit(), north.submit()
    assert (first["position"], second["position"]) == (0, 1)
    assert north.submit(priority="stat")["position"] == 0
    assert json_of(north.get(f"/v1/jobs/{second['id']}"))["position"] == 2
    assert second["estimated_wait_seconds"] is None
    work(clean_database)
    assert north.submit()["estimated_wait_seconds"] > 0
    assert json_of(north.get(f"/v1/jobs/{first['id']}"))["position"] is None
