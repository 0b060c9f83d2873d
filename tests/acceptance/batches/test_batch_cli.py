"""`thoraq batch` against the whole running system: sent, interrupted, gone on with, and nothing there twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from zipfile import ZipFile

import pytest

from client import Batch, Client
from standalone.services import HOST
from standalone.stack import Stack
from tests.support.files.many_images import SAMPLES, many_images
from tests.support.waiting import EVENT_SECONDS

COMMAND = Path(sys.executable).with_name("thoraq")
FILES = 60


class Line(ThreadingTCPServer):
    """A way to the API on which only `limit` bytes pass towards it; what is held there can be hung up."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, 0), Connection)
        self.url = f"http://{HOST}:{self.server_address[1]}"
        self.port = port
        self.limit: int | None = None
        self.passed = 0
        self.held, self.go = threading.Event(), threading.Event()

    def hang_up(self) -> None:
        """End what is held; from now on everything passes."""
        self.limit, self.passed = None, 0
        self.go.set()


class Connection(BaseRequestHandler):
    """One connection of the client's; whoever hangs up at one end is heard at the other."""

    server: Line

    def handle(self) -> None:
        with socket.create_connection((HOST, self.server.port)) as far:
            back = threading.Thread(target=self.answer, args=[far], daemon=True)
            back.start()
            with suppress(OSError):  # an end is gone
                self.ask(far)
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
            back.join()

    def ask(self, far: socket.socket) -> None:
        line = self.server
        while data := self.request.recv(65536):
            if line.limit is not None and line.passed + len(data) > line.limit:
                far.sendall(data[: max(0, line.limit - line.passed)])
                line.held.set()
                line.go.wait(EVENT_SECONDS)
                return
            line.passed += len(data)
            far.sendall(data)

    def answer(self, far: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(stand_in_stack: Stack) -> Iterator[Line]:
    with Line(int(stand_in_stack.url.rpartition(":")[2])) as line:
        threading.Thread(target=line.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield line
        line.hang_up()
        line.shutdown()


@pytest.fixture
def environment(stand_in_stack: Stack, tmp_path: Path) -> dict[str, str]:
    given = {"THORAQCTL_URL": stand_in_stack.url, "THORAQCTL_KEY": stand_in_stack.key}
    return os.environ | given | {"XDG_STATE_HOME": str(tmp_path / "state")}


def thoraq(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=EVENT_SECONDS,
        check=False,
    )


def receiving(thoraq: Client) -> Batch:
    """The batch that comes in, once some of it is in."""
    deadline = time.monotonic() + EVENT_SECONDS
    while time.monotonic() < deadline:
        newest = next(thoraq.batches(page_size=1), None)
        if newest is not None and newest.status == "receiving" and newest.next_item:
            return newest
        time.sleep(0.1)
    raise AssertionError("nothing came in")


def test_an_interrupted_batch_goes_on_and_nothing_is_there_twice(
    stand_in_stack: Stack, line: Line, environment: dict[str, str], tmp_path: Path
) -> None:
    files = many_images(tmp_path / "export", FILES)
    total = sum(file.stat().st_size for file in files)
    environment = environment | {"THORAQCTL_URL": line.url}
    line.limit = total // 2
    arguments = ["batch", str(tmp_path / "export"), "--modality", "xray", "--out", str(tmp_path / "results.csv")]
    process = subprocess.Popen(
        # A shell that starts the tests in the background has them, and what they start, ignore SIGINT.
        ["env", "--default-signal=INT", str(COMMAND), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert line.held.wait(EVENT_SECONDS)
    with stand_in_stack.client() as client:
        begun = receiving(client)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=EVENT_SECONDS)
        assert process.returncode == 130, stderr
        assert "the same command goes on" in stderr
        line.hang_up()
        done = thoraq(environment, *arguments)
        assert done.returncode == 0, done.stderr
        ended = client.batch(begun.id)
        assert (ended.status, ended.counts.total, ended.counts.succeeded) == ("completed", FILES, FILES)
        jobs = list(client.jobs(batch_id=begun.id, page_size=200))
    assert len(jobs) == len({job.study_id for job in jobs}) == FILES
    assert f"of {FILES} files are in already" in done.stderr
    assert line.passed < total * (FILES - begun.next_item) / FILES + 50_000
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["item"]) for row in rows] == list(range(FILES))
    assert [row["member"] for row in rows] == [f"export/{file.relative_to(tmp_path / 'export')}" for file in files]
    assert {row["job_id"] for row in rows} == {job.id for job in jobs}


def test_a_zip_with_a_bad_member_ends_with_the_answers_and_the_error(
    environment: dict[str, str], tmp_path: Path
) -> None:
    archive, out, errors = tmp_path / "export.zip", tmp_path / "results.ndjson", tmp_path / "errors.csv"
    with ZipFile(archive, "w") as packed:
        packed.write(SAMPLES / "xray-normal.png", "export/one.png")
        packed.writestr("export/two.png", b"no picture")
        packed.write(SAMPLES / "xray-pneumonia.jpg", "export/three.jpg")
    files = ["--out", str(out), "--errors", str(errors)]
    done = thoraq(environment, "batch", archive, "--modality", "xray", "--external-id", "a ward", *files)
    assert done.returncode == 1, done.stderr
    answered = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["item"], row["member"]) for row in answered if row["job"]["status"] == "succeeded"] == [
        (0, "export/one.png"),
        (2, "export/three.jpg"),
    ]
    with errors.open(encoding="utf-8", newline="") as file:
        assert [(row["item"], row["member"]) for row in csv.DictReader(file)] == [("1", "export/two.png")]
    assert "export/two.png" in done.stdout
    listed = thoraq(environment, "batches", "list", "--limit", "1", "--json")
    assert json.loads(listed.stdout)["external_id"] == "a ward"


def test_a_ct_among_xrays_goes_its_own_way(whole_stack: Stack, tmp_path: Path) -> None:
    """DICOM says its modality itself; --modality is for the files that do not."""
    out = tmp_path / "results.ndjson"
    files = [SAMPLES / "xray-normal.png", SAMPLES / "ct-slice.dcm"]
    command = [COMMAND, "batch", *files, "--modality", "xray", "--out", out, "--json"]
    given = os.environ | {"THORAQCTL_URL": whole_stack.url, "THORAQCTL_KEY": whole_stack.key}
    done = subprocess.run(list(map(str, command)), env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {line["member"]: line["job"]["modality"] for line in lines} == {
        "xray-normal.png": "xray",
        "ct-slice.dcm": "ct",
    }
