"""The API's memory while half a gigabyte comes in: the server, the parser and the store must each pass it on."""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread

from tests.support.files.images import dicom_bytes, make_dicom, png_header
from tests.support.servers.api import Server, peak_memory
from tests.support.waiting import EVENT_SECONDS

SIZE = 500_000_000
ALLOWED_GROWTH = 50_000_000
SIDE = 2000


def large_png(path: Path) -> None:
    """A picture's header, then padding: the edge looks at headers, so it takes this for a picture."""
    path.write_bytes(png_header(SIDE, SIDE))
    _pad(path, SIZE)


def large_dicom(path: Path) -> None:
    """Frames of 16 bits, all black, with pixel data of just their size."""
    frames = SIZE // (SIDE * SIDE * 2)
    dataset = dcmread(BytesIO(make_dicom(np.zeros((2, 2), np.uint16), modality="CT", bits_stored=16)))
    dataset.Rows = dataset.Columns = SIDE
    dataset.NumberOfFrames = frames
    del dataset.PixelData
    length = frames * SIDE * SIDE * 2
    # The last element, in Explicit VR Little Endian (PS3.5, 7.1.2); its value is the padding.
    header = dicom_bytes(dataset) + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", length)
    path.write_bytes(header)
    _pad(path, len(header) + length)


def _pad(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


def submit(client: httpx.Client, path: Path) -> httpx.Response:
    with path.open("rb") as file:
        return client.post("/v1/jobs", files={"files": file}, data={"classifier": "binary", "modality": "ct"})


def test_a_connection_that_breaks_off_makes_no_job(server: Server, client: httpx.Client) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    request = httpx.Request(
        "POST",
        f"{server.url}/v1/jobs",
        headers=client.headers,
        files={"files": png_header(SIDE, SIDE) + bytes(2_000_000)},
        data={"classifier": "binary", "modality": "ct"},
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    body = request.read()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/jobs HTTP/1.1\r\n{head}\r\n".encode() + body[:-500_000])
    while '"status": 400' not in server.log.read_text():  # what the application would have answered
        time.sleep(0.05)
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.post("/v1/jobs", content=body, headers=request.headers).status_code == 202
    assert len(client.get("/v1/jobs").json()["data"]) == 1


@pytest.mark.parametrize("make", [large_png, large_dicom])
def test_memory_stays_flat_while_500_megabytes_come_in(
    make: Callable[[Path], None], server: Server, client: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(make_dicom(np.zeros((64, 64), np.uint16), modality="CT", bits_stored=16))
    assert submit(client, path).status_code == 202
    path.unlink()
    make(path)
    with peak_memory(server) as samples:
        answer = submit(client, path)
    assert answer.status_code == 202, answer.text
    assert max(samples) - samples[0] < ALLOWED_GROWTH
    image = client.get(f"/v1/studies/{answer.json()['study_id']}").json()["images"][0]
    with path.open("rb") as file:
        as_sent = hashlib.file_digest(file, "sha256").hexdigest()
    # A DICOM file has another header when it is stored; its pixels passed through as they are.
    assert (image["sha256"] == as_sent) is (image["deidentified"] is None) is (make is large_png)
    assert abs(image["size_bytes"] - path.stat().st_size) < 1000
    assert image["size_bytes"] > SIZE * 0.99


def upload(client: httpx.Client, path: Path) -> dict[str, Any]:
    """The file as a complete direct upload, put where the API says."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        announced = {"size_bytes": path.stat().st_size, "sha256": digest}
        (address,) = client.post("/v1/uploads", json={"files": [announced]}).json()["data"]
        file.seek(0)
        answer = httpx.put(address["url"], content=file, headers=address["headers"], timeout=EVENT_SECONDS)
    assert answer.status_code == 204, answer.text
    made: dict[str, Any] = client.post(f"/v1/uploads/{address['id']}/complete").json()
    return made


def test_memory_stays_flat_while_a_direct_upload_comes_in(server: Server, client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(png_header(SIDE, SIDE))
    assert upload(client, path)["state"] == "complete"
    large_png(path)
    with peak_memory(server) as samples:
        made = upload(client, path)
    assert (made["state"], made["size_bytes"]) == ("complete", SIZE)
    assert max(samples) - samples[0] < ALLOWED_GROWTH
