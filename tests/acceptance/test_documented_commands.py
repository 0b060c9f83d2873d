"""Every command and program of the documents, run as it stands there against one running system."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

from shared.db.tables import EventType
from shared.webhooks.schemas import WebhookPayload
from shared.webhooks.signing import new_secret, sign
from standalone.stack import Stack
from tests.documented import DOCS, ROOT, blocks, name_of, pages

#: docs/operate/backup.md: tests/acceptance/test_backup.py and tests/compose/test_3_backup.py run it.
WITH_A_TEST_OF_THEIR_OWN = {DOCS / "operate" / "backup.md"}
NEXT = "\x1e"
(RECEIVER,) = blocks(DOCS / "guides" / "webhooks.md", "python")


def commands(page: Path) -> list[str]:
    """The blocks of a page that are run; what make does has tests of its own."""
    return [block for block in blocks(page, "sh") if not block.startswith("make ")]


def programs() -> list[tuple[Path, str]]:
    """Each Python program of the pages but the receiver."""
    return [(page, block) for page in pages() for block in blocks(page, "python") if block != RECEIVER]


def receiver() -> Flask:
    """The documented receiver."""
    module = ModuleType("receiver")
    exec(compile(RECEIVER, "webhooks.md", "exec"), module.__dict__)  # noqa: S102 - it is our own text
    app: Flask = module.app
    return app


class Hospital:
    """The documented receiver, served on a free port."""

    def __init__(self) -> None:
        self.server: BaseWSGIServer = make_server("127.0.0.1", 0, receiver())
        self.url = f"http://127.0.0.1:{self.server.server_port}/thoraq"


@pytest.fixture
def hospital(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hospital]:
    """A receiver of webhooks."""
    monkeypatch.setenv("SECRET", new_secret())
    hospital = Hospital()
    thread = threading.Thread(target=hospital.server.serve_forever)
    thread.start()
    yield hospital
    hospital.server.shutdown()
    hospital.server.server_close()
    thread.join()


def as_run(text: str, stack: Stack, receiver: str) -> str:
    """A page's text with this run's addresses and key."""
    text = text.replace("http://127.0.0.1:8080", stack.url).replace("http://127.0.0.1:9999/thoraq", receiver)
    text = text.replace(". .thoraq/env", stack.operator_environment)
    return text.replace("KEY=tq_...", f"KEY={stack.key}")


def first_is_answered(printed: list[str]) -> None:
    assert json.loads(printed[0])["status"] == "succeeded"


def check_readme(printed: list[str]) -> None:
    first_is_answered(printed[1:])


def check_quickstart(printed: list[str]) -> None:
    first_is_answered(printed[1:])
    assert "succeeded" in printed[2]
    assert "thoraq-4" in printed[2]


def check_submit(printed: list[str]) -> None:
    sent, polled, opened = printed
    first_is_answered([sent])
    assert json.loads(polled)["result"]["prediction"] in {"covid19", "not_covid19"}
    assert '"open"' in opened


def check_batches(printed: list[str]) -> None:
    command, zipped = printed
    assert "completed" in command
    assert len(zipped.splitlines()) == 2 + len(list((ROOT / "samples").glob("xray-*.jpg")))  # the event, and a heading


def check_direct_uploads(printed: list[str]) -> None:
    assert json.loads(printed[0])["result"]["outcome"] == "answered"


def check_webhooks(printed: list[str]) -> None:
    assert re.search(r"SECRET=whsec_\S+ ID=whe_", printed[0])
    assert json.loads(printed[1])["id"]


def check_keys(printed: list[str]) -> None:
    assert printed[0].startswith("tq_")
    assert "job.submit" in printed[0]


def check_bundles(printed: list[str]) -> None:
    assert "activated thoraq-4" in printed[0]


def check_metrics(printed: list[str]) -> None:
    assert "ready" in printed[0]
    assert "thoraq_http_request_seconds_count" in printed[0]


def check_http(printed: list[str]) -> None:
    assert "/v1/jobs" in printed[0].splitlines()


#: What the commands of a page have printed, block by block, if it says more than their exit codes.
CHECKS: dict[str, Callable[[list[str]], None]] = {
    "README.md": check_readme,
    "docs/quickstart.md": check_quickstart,
    "docs/guides/submit.md": check_submit,
    "docs/guides/batches.md": check_batches,
    "docs/guides/direct-uploads.md": check_direct_uploads,
    "docs/guides/webhooks.md": check_webhooks,
    "docs/guides/keys.md": check_keys,
    "docs/operate/bundles.md": check_bundles,
    "docs/operate/metrics.md": check_metrics,
    "docs/reference/http.md": check_http,
}
RUN = [page for page in pages() if commands(page) and page not in WITH_A_TEST_OF_THEIR_OWN]


def test_every_check_is_of_a_page_with_commands() -> None:
    assert set(CHECKS) <= {name_of(page) for page in RUN}


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_commands_do_what_they_say(page: Path, whole_stack: Stack, hospital: Hospital) -> None:
    """In one shell a page, as its reader has them, with what the quickstart has exported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ")}
    environment |= {"URL": whole_stack.url, "KEY": whole_stack.key}
    script = "\n".join(f"printf '{NEXT}'\n{block}" for block in commands(page))
    if re.search(r"^thoraq-admin", script, re.MULTILINE):  # "with the settings of the deployment in the environment"
        environment |= whole_stack.environ
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", as_run(script, whole_stack, hospital.url)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    _, *printed = done.stdout.split(NEXT)
    assert done.returncode == 0, f"block {len(printed)} of {name_of(page)}\n{done.stdout}\n{done.stderr}"
    if check := CHECKS.get(name_of(page)):
        check(printed)
    with whole_stack.client() as client:
        for endpoint in client.endpoints():
            if endpoint.url == hospital.url:
                client.delete_endpoint(endpoint.id)


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


@pytest.mark.parametrize(("page", "program"), [(page, text) for page, text in programs()])
def test_the_programs_answer(
    page: Path, program: str, whole_stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("URL", whole_stack.url)
    monkeypatch.setenv("KEY", whole_stack.key)
    exec(compile(program, name_of(page), "exec"), {})  # noqa: S102 - it is our own text
    assert re.search("covid19", capsys.readouterr().out)
