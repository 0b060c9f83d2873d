"""Every command and program of the README, run as it stands there against the running system."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

from shared.db.tables import EventType
from shared.jobs.schemas import WebhookPayload
from shared.webhooks.outbox import new_secret, sign
from standalone.stack import Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if not block.startswith("make ")]
RECEIVER, CLIENT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def receiver() -> Flask:
    """The README's receiver."""
    module = ModuleType("receiver")
    exec(compile(RECEIVER, "README.md", "exec"), module.__dict__)  # noqa: S102 - it is our own text
    app: Flask = module.app
    return app


class Hospital:
    """The README's receiver, served on a free port."""

    def __init__(self) -> None:
        self.server: BaseWSGIServer = make_server("127.0.0.1", 0, receiver())
        self.url = f"http://127.0.0.1:{self.server.server_port}/thoraq"


@pytest.fixture
def hospital() -> Iterator[Hospital]:
    """A receiver of webhooks."""
    hospital = Hospital()
    thread = threading.Thread(target=hospital.server.serve_forever)
    thread.start()
    yield hospital
    hospital.server.shutdown()
    hospital.server.server_close()
    thread.join()


def as_run(text: str, stack: Stack, receiver: str) -> str:
    """The README's text with this run's addresses and key."""
    text = text.replace("http://127.0.0.1:8080", stack.url).replace("http://127.0.0.1:9999/thoraq", receiver)
    text = text.replace(". .thoraq/env", stack.operator_environment)
    return text.replace("KEY=tq_...", f"KEY={stack.key}")


def test_the_commands_do_what_they_say(whole_stack: Stack, hospital: Hospital) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    printed = []
    before = ""
    for block in COMMANDS:
        script = before + as_run(block, whole_stack, hospital.url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT,
            env=environment | (whole_stack.environ if "thoraq-admin" in block else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
        before += "".join(
            line + "\n" for line in script.splitlines() if line.startswith("export ") and line not in before
        )
    _, sent, polled, endpoint, commands, batch, zipped, uploaded, keys, models = printed
    assert json.loads(sent)["status"] == "succeeded"
    assert json.loads(polled)["result"]["prediction"] in {"covid19", "not_covid19"}
    assert json.loads(endpoint)["secret"].startswith("whsec_")
    assert "succeeded" in commands
    assert "completed" in batch
    assert len(zipped.splitlines()) == 2 + len(list((ROOT / "samples").glob("xray-*.jpg")))  # the event, and a heading
    assert json.loads(uploaded)["result"]["outcome"] == "answered"
    assert keys.startswith("tq_")
    assert "job.submit" in keys
    assert "thoraq-3" in commands
    assert "activated thoraq-3" in models
    with whole_stack.client() as client:
        client.delete_endpoint(json.loads(endpoint)["id"])


def test_the_receiver_verifies_what_is_sent(
    whole_stack: Stack, hospital: Hospital, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = ROOT / "samples" / "xray-normal.png"
    with whole_stack.client() as client:
        endpoint = client.create_endpoint(hospital.url, ["*"])
        monkeypatch.setenv("SECRET", endpoint.secret or "")
        job = client.submit([picture], classifier="binary", modality="xray", wait=30)
        batch = client.submit_batch([picture], classifier="binary", modality="xray")
        client.wait_batch(batch, 60)
        client.test_endpoint(endpoint.id)
        while "pending" in (states := [delivery.state for delivery in client.deliveries(endpoint.id)]):
            time.sleep(0.1)
        client.delete_endpoint(endpoint.id)
    assert states == ["delivered"] * 4
    said = capfd.readouterr().out
    assert f"job.succeeded {job.id} not_covid19" in said
    assert f"batch.completed {batch.id} None" in said
    assert f"test {endpoint.id} None" in said


@pytest.mark.parametrize("kind", EventType)
def test_the_receiver_takes_every_type_of_event(kind: EventType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of each as shared/jobs/schemas.py makes them, as far as the receiver looks."""
    data: dict[str, object] = {"id": "x_1", "status": "failed", "result": None, "error": None}
    if kind is EventType.TEST:
        data = {"endpoint_id": "we_1"}
    elif kind is EventType.BATCH_COMPLETED:
        data = {"id": "batch_1", "counts": {}}
    secret = new_secret()
    monkeypatch.setenv("SECRET", secret)
    at = datetime.now(UTC)
    for result in ({}, {"result": {"prediction": None}}):
        body = WebhookPayload(type=kind, timestamp=at, data=data | result).model_dump_json()
        headers = sign([secret], "msg_1", at, body)
        with receiver().test_client() as http:
            assert http.post("/thoraq", data=body, headers=headers).status_code == 204


def test_the_python_client_example(
    whole_stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    names = {"url": whole_stack.url, "key": whole_stack.key}
    exec(compile(CLIENT, "README.md", "exec"), names)  # noqa: S102 - it is our own text
    assert "not_covid19" in capsys.readouterr().out
