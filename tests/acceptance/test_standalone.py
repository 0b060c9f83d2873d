"""`python -m standalone`, as a person starts and stops it."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from standardwebhooks.webhooks import Webhook

from client import Client
from standalone.process import ROOT, wait_gone
from standalone.receiver import Receiver
from standalone.redis_program import redis_program
from standalone.services import free_port
from tests.support.command import into
from tests.support.waiting import EVENT_SECONDS, until

STARTING = ".* api, workers and beat are started; the models load"
SERVING = "serving; Ctrl-C stops"


class Standalone:
    """`python -m standalone` as a child; what it prints goes to a file."""

    def __init__(self, data: Path, environ: dict[str, str], *options: str) -> None:
        self.data = data
        self.printed = data.with_name(f"{uuid.uuid4()}.out")
        command = [sys.executable, "-m", "standalone", "--data", str(data), *options]
        with self.printed.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=subprocess.STDOUT)

    def line(self, pattern: str) -> re.Match[str]:
        """The first printed line that matches, as soon as it is there."""
        deadline = time.monotonic() + EVENT_SECONDS
        while time.monotonic() < deadline:
            over = self.process.poll() is not None
            found = re.search(f"^{pattern}$", self.text, re.MULTILINE)
            if found:
                return found
            assert not over, self.text
            time.sleep(0.1)
        pytest.fail(f"no line {pattern!r} in:\n{self.text}")

    @property
    def text(self) -> str:
        return self.printed.read_text(encoding="utf-8")

    def family(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=EVENT_SECONDS)


def ready(standalone: Standalone) -> tuple[str, str]:
    found = standalone.line(r"ready url=(http://127\.0\.0\.1:\d+) key=(tq_\S+)")
    return found[1], found[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, plain_environ: dict[str, str]) -> Standalone:
    """The demo's first start, in a new folder, until it has ended by itself."""
    data = tmp_path_factory.mktemp("demo") / "data"
    standalone = Standalone(data, plain_environ, "--demo", "--port", str(free_port()))
    ready(standalone)
    family = standalone.family()
    assert standalone.process.wait(timeout=EVENT_SECONDS) == 0, standalone.text
    assert not wait_gone(family, timeout=EVENT_SECONDS)
    return standalone


@pytest.fixture(scope="module")
def serving(demo: Standalone, plain_environ: dict[str, str]) -> Iterator[Standalone]:
    """The second start, in the demo's folder, on whatever port is free."""
    standalone = Standalone(demo.data, plain_environ)
    ready(standalone)
    yield standalone
    assert standalone.end() == 0, standalone.text


def refusal(data: Path, environ: dict[str, str], *options: str) -> str:
    standalone = Standalone(data, environ, *options)
    assert standalone.process.wait(timeout=EVENT_SECONDS) == 1
    assert "Traceback" not in standalone.text
    return standalone.text


def test_the_demo_classifies_every_sample_and_verifies_every_webhook(demo: Standalone) -> None:
    samples = json.loads((ROOT / "samples" / "samples.json").read_text(encoding="utf-8"))
    jobs = sum(len(sample["classifiers"]) for sample in samples)
    verified = re.findall(r"^webhook verified type=job\.succeeded id=(job_\w+)$", demo.text, re.MULTILINE)
    assert len(set(verified)) == len(verified) == jobs
    for sample in samples:
        assert Path(sample["files"][0]).name in demo.text
    assert re.search(r"File +Modality +Classifier +Outcome +Prediction +Probability +Review +Time", demo.text)
    assert re.search(r"xray-normal\.dcm +xray +ensemble +answered +\w+ +0\.\d+ +yes: thin margin", demo.text)


def test_a_restart_keeps_the_key_the_jobs_and_nothing_of_the_demo(demo: Standalone, serving: Standalone) -> None:
    url, key = ready(serving)
    assert key == ready(demo)[1]
    with Client(url, key) as client:
        jobs = {job.id for job in client.jobs()}
        endpoints = list(client.endpoints())
    assert set(re.findall(r"job_\w+", demo.text)) <= jobs
    assert endpoints == []


def test_a_second_one_on_the_same_folder_is_refused(serving: Standalone, plain_environ: dict[str, str]) -> None:
    text = refusal(serving.data, plain_environ)
    assert f"another Thoraq (process {serving.process.pid}) runs on {serving.data}" in text


def test_an_admin_key_is_made_with_the_line_that_is_printed(serving: Standalone, plain_environ: dict[str, str]) -> None:
    serving.line(r"an admin key, for more keys:")
    line = serving.line(r"\((\. .*; .*) \\")[1] + " " + serving.line(r"  (--tenant local .*)\)")[1]
    environ = plain_environ | {"PATH": f"{Path(sys.executable).parent}:{plain_environ['PATH']}"}
    line = line.replace(".venv/bin/", "")
    made = subprocess.run(["sh", "-c", line], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    with Client(ready(serving)[0], made.stdout.strip()) as client:
        viewer = client.create_key("viewer", ["jobs:read"])
        kept = list(client.keys())
    assert viewer.id in {key.id for key in kept}


def test_the_secrets_are_for_the_owner_alone(serving: Standalone) -> None:
    assert (serving.data / "env").stat().st_mode & 0o777 == 0o600
    assert (serving.data / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert serving.data.stat().st_mode & 0o777 == 0o700


def test_a_child_that_crashes_is_started_again(serving: Standalone) -> None:
    serving.line(SERVING)
    (beat,) = (child for child in serving.family() if "beat" in child.cmdline())
    beat.kill()
    serving.line(r".* beat is started again")
    (again,) = (child for child in serving.family() if "beat" in child.cmdline())
    assert again.pid != beat.pid


def test_the_api_serves_on_while_a_process_of_it_is_started_again(serving: Standalone) -> None:
    url, _ = ready(serving)
    (api,) = (child for child in serving.family() if "granian" in child.cmdline() and child.children())
    killed, left = api.children()
    killed.kill()

    def answered() -> bool:
        """False for a connection that the dead process had taken; one that nobody takes is an error."""
        try:
            return httpx.get(f"{url}/healthz").status_code == 200
        except (httpx.ReadError, httpx.RemoteProtocolError):
            return False

    until(answered)
    assert left.is_running()
    until(lambda: len(api.children()) == 2)


@pytest.mark.parametrize(("number", "when"), [(signal.SIGTERM, SERVING), (signal.SIGINT, STARTING)])
def test_a_signal_stops_every_process(
    data: Path, compared: Callable[[Path], Path], plain_environ: dict[str, str], number: signal.Signals, when: str
) -> None:
    standalone = Standalone(compared(data), plain_environ, "--port", str(free_port()))
    standalone.line(when)
    family = standalone.family()
    assert {"postgres", redis_program().name} <= {process.name() for process in family}
    assert standalone.end(number) == 0
    assert not wait_gone(family, timeout=EVENT_SECONDS)


def test_no_process_outlives_a_kill(data: Path, plain_environ: dict[str, str]) -> None:
    standalone = Standalone(data, plain_environ, "--port", str(free_port()))
    standalone.line(STARTING)
    family = standalone.family()
    assert standalone.end(signal.SIGKILL) == -signal.SIGKILL
    assert len(family) > 6
    assert not wait_gone(family, timeout=EVENT_SECONDS)


def test_a_port_in_use_is_refused_when_it_was_asked_for(data: Path, plain_environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refusal(data, plain_environ, "--port", str(port))
    assert f"port {port} is in use" in text


@pytest.mark.parametrize("port", ["80000", "abc", "-1", "8080.5", "\u0661"])
def test_what_is_no_port_is_told_in_a_line(data: Path, plain_environ: dict[str, str], port: str) -> None:
    text = refusal(data, plain_environ, f"--port={port}")
    assert text == f"error: {port!r} is no port: give a number from 1 to 65535, or 0 for a free one\n"
    assert not data.exists()


@pytest.mark.parametrize("inside", ["", "folder"])
def test_a_file_is_no_data_folder(tmp_path: Path, plain_environ: dict[str, str], inside: str) -> None:
    (tmp_path / "file").touch()
    text = refusal(tmp_path / "data", plain_environ, "--data", str(tmp_path / "file" / inside), "--port=0")
    assert len(text.splitlines()) == 1
    assert f"{tmp_path / 'file'}" in text


def test_a_folder_that_cannot_be_made_is_told_in_a_line(plain_environ: dict[str, str], tmp_path: Path) -> None:
    standalone = Standalone(tmp_path / "d", plain_environ, "--data", "/proc/thoraq", "--port=0")
    assert standalone.process.wait(timeout=EVENT_SECONDS) == 1
    assert re.fullmatch(r"error: /proc/thoraq cannot be used: .*; give another folder with --data\n", standalone.text)


def test_output_that_cannot_be_written_ends_it_with_a_line(data: Path, plain_environ: dict[str, str]) -> None:
    command = [sys.executable, "-m", "standalone", "--data", str(data), "--port=0"]
    assert into(None, command, plain_environ).stderr == "thoraq: standard output: it is closed\n"
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device, no file of ours
        done = into(full.fileno(), command, plain_environ)
    assert (done.returncode, done.stderr) == (2, "thoraq: standard output: No space left on device\n")
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(data) in " ".join(one.info["cmdline"] or [])]


def test_a_setting_that_does_not_exist_is_refused(data: Path, plain_environ: dict[str, str]) -> None:
    text = refusal(data, plain_environ | {"THORAQ_BATCH_SISE": "4"}, "--port", str(free_port()))
    assert "THORAQ_BATCH_SISE is not a setting of Thoraq" in text


def test_the_receiver_takes_signed_webhooks_and_refuses_forged_ones() -> None:
    secret = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()
    at, body = datetime.now(UTC), json.dumps({"type": "job.succeeded", "data": {"id": "job_1"}})
    events: list[dict[str, Any]] = []
    with Receiver(events.append) as receiver:
        receiver.secret = secret
        headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp()))}
        signed = headers | {"webhook-signature": Webhook(secret).sign("msg_1", at, body)}
        assert httpx.post(receiver.url, content=body, headers=signed).status_code == 204
        assert httpx.post(receiver.url, content=body + " ", headers=signed).status_code == 400
        assert httpx.post(receiver.url, content=body, headers=headers).status_code == 400
    assert [event["data"]["id"] for event in events] == ["job_1"]
    assert receiver.refused == ["No matching signature found", "Missing required headers"]
