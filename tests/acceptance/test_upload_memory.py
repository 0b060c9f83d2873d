"""The API's memory while half a gigabyte comes in: the server, the parser and the store must each pass it on."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from pydicom import dcmread

from shared.config import parse
from shared.db import Database
from shared.keys import Scope
from shared.storage import open_storage
from standalone.programs import Program
from standalone.services import HOST, free_port
from tests.api_support import new_key
from tests.factories_imaging import dicom_bytes, make_dicom, png_header

SIZE = 500_000_000
ALLOWED_GROWTH = 50_000_000
SIDE = 2000


class Server(Program):
    """The API alone, as production starts it, but with one process, so that there is one memory to look at."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.url = f"http://{HOST}:{free_port()}"
        bind = ["--host", HOST, "--port", self.url.rpartition(":")[2]]
        size = ["--workers", "1", "--blocking-threads", "4"]
        super().__init__(
            "api", ["granian", "--interface", "wsgi", *bind, *size, "--factory", "api:create_app"], environment, log
        )

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.TransportError:
            return False

    def memory(self) -> int:
        """Resident bytes of the server's processes."""
        main = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))


@contextmanager
def peak_memory(server: Server) -> Iterator[list[int]]:
    """A list that grows by one sample of the server's memory after the other."""
    samples, done = [server.memory()], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            samples.append(server.memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


@pytest.fixture
def server(settings_env: dict[str, str], plain_environ: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """The server, warm: what its first request loads is no growth."""
    open_storage(parse(settings_env)).prepare()
    # The parser spools to the temporary folder; this one is on disk, whatever /tmp is.
    server = Server(plain_environ | settings_env | {"TMPDIR": str(tmp_path)}, tmp_path / "api.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server, clean_database: Database) -> Iterator[httpx.Client]:
    key = new_key(clean_database, Scope.JOBS_WRITE, Scope.JOBS_READ)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        yield client


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
        assert image["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert image["size_bytes"] == path.stat().st_size > SIZE * 0.99
