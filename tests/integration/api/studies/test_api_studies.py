"""Studies: what is kept of them, and their pictures."""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from shared.db.engine import Database
from shared.db.tables import Image
from tests.support.api import (
    CT_DICOM,
    PNG,
    TEXT,
    XRAY_DICOM,
    Caller,
    json_of,
    keep_identities,
    objects,
    problem_of,
    work,
)
from tests.support.files.images import make_dicom


def png(height: int, width: int, value: int = 128) -> bytes:
    encoded = cv2.imencode(".png", np.full((height, width), value, np.uint8))[1]
    return bytes(encoded.tobytes())


def test_a_study_is_kept_and_shown(north: Caller) -> None:
    answer = north.send(png(30, 40), path="/v1/studies", modality="xray", external_id="E 1", metadata='{"a": [1]}')
    study = json_of(answer, 201)
    assert answer.headers["Location"] == f"/v1/studies/{study['id']}"
    assert json_of(north.get(f"/v1/studies/{study['id']}")) == study
    assert (study["object"], study["modality"]) == ("study", "xray")
    assert (study["external_id"], study["metadata"]) == ("E 1", {"a": [1]})
    (image,) = study["images"]
    assert (image["width"], image["height"], image["media_type"]) == (40, 30, "image/png")
    assert image["sha256"] == hashlib.sha256(png(30, 40)).hexdigest()
    assert image["size_bytes"] == len(png(30, 40))
    assert image["problem"] is None


def test_a_study_alone_makes_no_job(north: Caller) -> None:
    json_of(north.send(CT_DICOM, path="/v1/studies"), 201)
    assert json_of(north.get("/v1/jobs"))["data"] == []


def test_bytes_are_stored_as_they_came(north: Caller, clean_database: Database) -> None:
    keep_identities(clean_database)
    json_of(north.send(PNG, XRAY_DICOM, path="/v1/studies"), 201)
    storage = north.client.application.extensions["thoraq"].storage
    with clean_database.transaction() as session:
        images = session.scalars(sa.select(Image).order_by(Image.position)).all()
    assert [storage.get(image.object_key) for image in images] == [PNG, XRAY_DICOM]
    assert {image.object_key for image in images} == set(objects(north.client))


@pytest.mark.parametrize("fields", [{"classifier": "binary"}, {"priority": "stat"}])
def test_a_study_takes_no_fields_of_jobs(fields: dict[str, Any], north: Caller) -> None:
    body = problem_of(north.send(PNG, path="/v1/studies", modality="xray", **fields), 422, "invalid-request")
    assert [error["field"] for error in body["errors"]] == list(fields)


def picture(caller: Caller, study_id: str, index: int = 0) -> NDArray[Any]:
    image = json_of(caller.get(f"/v1/studies/{study_id}"))["images"][index]
    response = caller.get(f"/v1/studies/{study_id}/images/{image['id']}/preview")
    assert (response.status_code, response.mimetype) == (200, "image/png"), response.text
    assert response.headers["Cache-Control"].startswith("private")
    grey = cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey is not None
    return grey


@pytest.mark.parametrize(
    ("size", "shown"),
    [((30, 40), (30, 40)), ((768, 500), (768, 500)), ((1536, 1000), (768, 500)), ((1, 4000), (1, 768))],
)
def test_a_preview_is_grey_and_small(size: tuple[int, int], shown: tuple[int, int], north: Caller) -> None:
    study = json_of(north.send(png(*size, value=77), path="/v1/studies", modality="xray"), 201)
    grey = picture(north, study["id"])
    assert grey.shape == shown
    assert (grey == 77).all()


def test_each_frame_has_its_preview_once_a_worker_has_read_them(north: Caller, clean_database: Database) -> None:
    frames = np.stack([np.full((8, 8), value, np.int16) for value in (-1350, -600, 150)])
    study = json_of(north.send(make_dicom(frames, modality="CT", bits_stored=16), path="/v1/studies"), 201)
    path = f"/v1/studies/{study['id']}/images/{study['images'][0]['id']}/preview"
    problem_of(north.get(path), 409, "conflict")
    json_of(north.post("/v1/jobs", json={"study_id": study["id"], "classifier": "binary"}), 202)
    work(clean_database)
    means = [picture(north, study["id"], index).mean() for index in range(3)]
    assert means == sorted(means)
    assert means[0] < means[1] < means[2]


def test_a_refused_file_has_no_preview(north: Caller) -> None:
    study = json_of(north.send(PNG, TEXT, path="/v1/studies", modality="xray"), 201)
    path = f"/v1/studies/{study['id']}/images/{study['images'][1]['id']}/preview"
    problem_of(north.get(path), 422, "image")


def test_a_truncated_picture_has_a_problem_for_a_preview(north: Caller) -> None:
    study = json_of(north.send(PNG[:-1000], path="/v1/studies", modality="xray"), 201)
    path = f"/v1/studies/{study['id']}/images/{study['images'][0]['id']}/preview"
    problem_of(north.get(path), 422, "corrupt-image")
