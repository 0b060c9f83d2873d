"""The whole path with real processes: upload, store, job, worker, result, poll and webhook."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from client import ApiError, Client
from standalone.receiver import Receiver
from standalone.stack import Stack
from tests.support.files.images import dicom_bytes, make_dicom, png_header
from tests.support.waiting import EVENT_SECONDS

SAMPLES = Path(__file__).parents[2] / "samples"
XRAY = SAMPLES / "xray-normal.png"


@pytest.fixture
def client(whole_stack: Stack) -> Iterator[Client]:
    """A client with the first key, and everything up."""
    with whole_stack.client() as client:
        yield client


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file to upload."""
    path = folder / name
    path.write_bytes(content)
    return path


def no_pixels() -> bytes:
    """A DICOM object of an image class whose pixels are missing."""
    data = dcmread(BytesIO(make_dicom(np.zeros((4, 4), np.uint8))))
    del data.PixelData
    return dicom_bytes(data)


REFUSED = {
    "empty-file": ("empty.png", b""),
    "unsupported-image": ("text.png", b"this is a letter, whatever it is called\n" * 20),
    "image-too-large": ("huge.png", png_header(40_000, 40_000)),
    "no-pixel-data": ("report.dcm", no_pixels()),
}


def truncated() -> bytes:
    """The first half of a real PNG: its header is in order, so only decoding tells."""
    whole = XRAY.read_bytes()
    return whole[: len(whole) // 2]


def test_upload_to_result_to_verified_webhook(client: Client) -> None:
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    with Receiver(events.put) as receiver:
        endpoint = client.create_endpoint(receiver.url, ["job.succeeded"])
        receiver.secret = endpoint.secret or ""
        try:
            job = client.submit([XRAY], classifier="ensemble", modality="xray", external_id="ACC-1")
            assert job.status in {"queued", "running"}
            finished = client.wait(job)
            event = events.get(timeout=EVENT_SECONDS)
        finally:
            client.delete_endpoint(endpoint.id)
    assert receiver.refused == []
    assert finished.status == "succeeded"
    assert finished.result is not None
    assert finished.result.probabilities is not None
    assert set(finished.result.probabilities) == {"normal", "pneumonia", "covid19"}
    assert sum(finished.result.probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert len(finished.result.model.sha256) == 64
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == job.id
    assert event["data"]["result"]["probabilities"] == finished.result.probabilities
    assert "ACC-1" not in str(event)


def test_both_classifiers_on_one_stored_study(client: Client) -> None:
    study = client.submit_study([XRAY], modality="xray")
    answers = [client.wait(client.run(study.id, classifier=name)) for name in ("binary", "ensemble")]
    assert [job.status for job in answers] == ["succeeded", "succeeded"]
    assert {job.study_id for job in answers} == {study.id}


def test_prefer_wait_answers_with_the_result(client: Client) -> None:
    job = client.submit([XRAY], classifier="binary", modality="xray", wait=30)
    assert job.status == "succeeded"


def test_polling_with_an_etag(whole_stack: Stack, client: Client) -> None:
    job = client.wait(client.submit([XRAY], classifier="binary", modality="xray"))
    headers = {"Authorization": f"Bearer {whole_stack.key}"}
    first = httpx.get(f"{whole_stack.url}/v1/jobs/{job.id}", headers=headers)
    again = httpx.get(f"{whole_stack.url}/v1/jobs/{job.id}", headers=headers | {"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_is_answered_as_its_png_twin(client: Client, tmp_path: Path, photometric: str) -> None:
    """Twelve bits, a rescale and a window that together make the twin's grey values; MONOCHROME1 inverted."""
    grey = cv2.imread(str(XRAY), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    shown = 255 - grey if photometric == "MONOCHROME1" else grey
    stored = shown.astype(np.uint16) * 4 + 100
    dicom = make_dicom(
        stored,
        photometric=photometric,
        bits_stored=12,
        slope=0.5,
        intercept=-50.0,
        window=(255.5, 511.0),
    )
    twin = client.wait(client.submit([XRAY], classifier="ensemble", modality="xray"))
    job = client.wait(client.submit([write(tmp_path, "twin.dcm", dicom)], classifier="ensemble"))
    assert twin.result is not None
    assert job.result is not None
    assert job.result.prediction == twin.result.prediction
    assert job.result.probabilities == pytest.approx(twin.result.probabilities, abs=0.02)


def test_a_study_of_several_images_has_each_answer_and_their_mean(client: Client) -> None:
    files = [SAMPLES / "xray-two-views-1.jpg", SAMPLES / "xray-two-views-2.jpg", SAMPLES / "xray-normal.dcm"]
    job = client.wait(client.submit(files, classifier="ensemble", modality="xray"))
    assert job.result is not None
    assert job.result.probabilities is not None
    rows = [image.probabilities for image in job.result.images]
    assert (len(rows), job.result.aggregate) == (3, "mean")
    for name, value in job.result.probabilities.items():
        assert value == pytest.approx(np.mean([row[name] for row in rows if row]), abs=1e-4)


@pytest.mark.parametrize("reason", REFUSED)
def test_a_file_that_cannot_be_an_image_is_a_clear_problem(client: Client, tmp_path: Path, reason: str) -> None:
    with pytest.raises(ApiError) as caught:
        client.submit([write(tmp_path, *REFUSED[reason])], classifier="binary", modality="xray")
    assert caught.value.status == 422
    assert caught.value.type == reason


def test_a_truncated_image_fails_its_job_with_the_reason(client: Client, tmp_path: Path) -> None:
    job = client.wait(client.submit([write(tmp_path, "half.png", truncated())], classifier="binary", modality="xray"))
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.type == "corrupt-image"


def bad_and_good(folder: Path) -> list[Path]:
    """Every bad file, a good one first and last."""
    bad = [write(folder, *named) for named in REFUSED.values()]
    return [XRAY, *bad, write(folder, "half.png", truncated()), SAMPLES / "xray-pneumonia.jpg"]


def test_good_images_of_a_study_are_answered_beside_bad_ones(client: Client, tmp_path: Path) -> None:
    job = client.wait(client.submit(bad_and_good(tmp_path), classifier="binary", modality="xray"))
    assert job.status == "succeeded"
    assert job.result is not None
    problems = [image.problem.type if image.problem else None for image in job.result.images]
    assert problems == [None, *REFUSED, "corrupt-image", None]
    assert [bool(image.probabilities) for image in job.result.images] == [problem is None for problem in problems]


def test_good_images_of_a_batch_are_answered_beside_bad_ones(client: Client, tmp_path: Path) -> None:
    batch = client.wait_batch(client.submit_batch(bad_and_good(tmp_path), classifier="binary", modality="xray"))
    assert batch.status == "completed_with_errors"
    assert (batch.counts.total, batch.counts.rejected) == (7, 4)
    assert (batch.counts.succeeded, batch.counts.failed) == (2, 1)
    refused = [error for error in client.batch_errors(batch) if error.status == "rejected"]
    assert [error.problem and error.problem.type for error in refused] == list(REFUSED)


def test_what_names_a_patient_is_in_no_log_and_not_in_redis(whole_stack: Stack, client: Client, tmp_path: Path) -> None:
    canary = "Mustermann-7Q3"
    name = Dataset()
    name.PatientName, name.PatientID, name.AccessionNumber = f"{canary}^Erika", canary, canary
    good = write(tmp_path, f"{canary}.dcm", make_dicom(np.arange(256, dtype=np.uint8).reshape(16, 16), elements=name))
    bad = write(tmp_path, f"{canary}.png", truncated())
    for file in (good, bad):
        client.wait(
            client.submit(
                [file], classifier="binary", modality="xray", external_id=canary, metadata={"patient": canary}
            )
        )
    with pytest.raises(ApiError) as caught:
        client.submit([write(tmp_path, f"{canary}.txt", canary.encode())], classifier="binary", modality="xray")
    assert canary not in str(caught.value)
    places = [*whole_stack.folder.logs.iterdir(), *(whole_stack.folder.path / "redis").rglob("*")]
    searched = [place for place in places if place.is_file()]
    assert any(b"jobs.finished" in place.read_bytes() for place in searched)
    assert [place.name for place in searched if canary.encode() in place.read_bytes()] == []
