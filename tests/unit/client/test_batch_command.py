"""`thoraq batch` and `thoraq batches` as scripts and people use them: output, exit codes, Ctrl-C and going on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from rich.cells import cell_len
from rich.text import Text
from stream_unzip import stream_unzip

from client.archive import archive_of
from client.batch_calls import Watch
from client.batch_models import Batch
from client.client import Client
from client.commands.meter import Meter
from tests.rendered_tables import Terminal
from tests.support.command import COMMAND, environment, thoraq
from tests.support.servers.scripted import Reply, Request, Server, batch, problem, serving, succeeded
from tests.support.waiting import EVENT_SECONDS

POST, FIND, EVENTS = "POST /v1/batches", "GET /v1/batches", "GET /v1/batches/b1/events"
RESULTS, ERRORS = "GET /v1/batches/b1/results", "GET /v1/batches/b1/errors"
FILES = 20
SIZE = 50_000
NONE = Reply(200, {"data": [], "next_cursor": None})
REASON = {"type": "empty-file", "title": "Empty file", "detail": "the file holds no bytes"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One that takes the whole batch and answers it at once."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with serving() as server:
        server.on(FIND, NONE)
        server.on(POST, Reply(202, batch(total=FILES, queued=FILES)))
        server.on(EVENTS, events(batch(total=FILES, queued=FILES), batch("completed", total=FILES, succeeded=FILES)))
        server.on(RESULTS, lines())
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    for index in range(FILES):
        (folder / f"{index:02}.png").write_bytes(bytes([index]) * SIZE)
    (folder / "notes.txt").write_bytes(b"no image")
    return folder


def events(*views: dict[str, Any]) -> Reply:
    names = ["progress"] * (len(views) - 1) + ["end"]
    text = "".join(f"event: {name}\ndata: {json.dumps(view)}\n\n" for name, view in zip(names, views, strict=True))
    return Reply(200, text.encode(), {"Content-Type": "text/event-stream"})


def lines(*rows: dict[str, Any]) -> Reply:
    return Reply(200, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


def first_item(request: Request) -> str:
    return dict(parse_qsl(request.path.partition("?")[2]))["first_item"]


def members(request: Request) -> list[str]:
    return [name.decode() for name, _, data in stream_unzip([request.body]) if list(data)]


def keys(server: Server) -> list[str]:
    return [request.headers["Idempotency-Key"] for request in server.requests[POST]]


def test_a_directory_becomes_a_batch_and_its_results_a_file(server: Server, images: Path, tmp_path: Path) -> None:
    server.on(RESULTS, Reply(200, b"item,member\n0,export/00.png\n"), lines())
    server.on(ERRORS, Reply(200, b""))
    out, errors = tmp_path / "results.csv", tmp_path / "errors.ndjson"
    done = thoraq(server, "batch", images, "--modality", "xray", "--out", out, "--errors", errors)
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "item,member\n0,export/00.png\n"
    assert errors.read_text() == ""
    assert [request.headers["Accept"] for request in server.requests[RESULTS]][:1] == ["text/csv"]
    assert [request.headers["Accept"] for request in server.requests[ERRORS]] == ["application/x-ndjson"]
    assert members(server.requests[POST][0]) == [f"export/{index:02}.png" for index in range(FILES)]
    for said in ("b1", "completed", str(FILES), "not a medical device"):
        assert said in done.stdout
    assert "1 other file was skipped" in done.stderr
    assert kept(tmp_path) == []


def test_items_without_an_answer_are_exit_code_1_and_are_shown(server: Server, images: Path) -> None:
    ended = batch("completed_with_errors", total=FILES, succeeded=FILES - 2, failed=1, rejected=1)
    server.on(EVENTS, events(ended))
    item = {"item": 3, "member": "export/03.png", "custom_id": None, "job_id": None, "status": "rejected"}
    server.on(ERRORS, lines(item | {"problem": REASON}))
    done = thoraq(server, "batch", images)
    assert done.returncode == 1
    for said in ("completed with errors", "export/03.png", "the file holds no bytes", "Without an answer (2"):
        assert said in done.stdout


def test_a_batch_ends_with_its_answers_by_class_and_by_review(server: Server, images: Path) -> None:
    ignored = {"ignored": {"count": 12, "names": [f"export/{number}/Thumbs.db" for number in range(12)]}}
    ended = batch("completed_with_errors", total=FILES, succeeded=4, failed=FILES - 4) | ignored
    server.on(EVENTS, events(ended))
    doubtful = {"needs_review": True, "review_reasons": ["thin-margin"]}
    rejected = {"outcome": "rejected_input", "reason": "not-a-chest-image", "prediction": None}
    results = [{}, doubtful, {"prediction": "negative"}, rejected]
    jobs = [succeeded() | {"result": succeeded()["result"] | more} for more in results]
    server.on(RESULTS, lines(*({"item": item, "job": job} for item, job in enumerate(jobs))))
    server.on(ERRORS, lines())
    printed = thoraq(server, "batch", images).stdout
    rows = [re.split(r" {2,}", line.strip()) for line in printed.splitlines()]
    for row in (
        ["positive", "2", "1", "thin margin 1"],
        ["negative", "1", "0"],
        ["not classified: not a chest image", "1", "0"],
        ["no answer: failed", "16", "0"],
    ):
        assert row in rows, printed
    assert "12 files were ignored, as no images: export/0/Thumbs.db," in printed
    assert "export/9/Thumbs.db, 2 more" in printed


def test_a_silent_server_is_waited_for_and_the_person_is_told(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """With silence after a moment: in the command it is after fifteen seconds."""
    ended = batch("completed", total=1, succeeded=1)
    server.on(EVENTS, Reply(200, events(ended).body, {"Content-Type": "text/event-stream"}, hold=True))
    with Client(server.url, "tq_test") as thoraq, Meter(silence_seconds=0.3) as meter:
        threading.Timer(2, server.go.set).start()
        assert [view.status for view in thoraq.batch_events("b1", watch=meter)] == ["completed"]
    assert re.search(r"waiting for the server: \d s without a word", capsys.readouterr().err)


def test_a_word_that_says_nothing_new_ends_the_silence(server: Server) -> None:
    heard: list[str] = []

    class Listener(Watch):
        def heard(self) -> None:
            heard.append("")

    text = b": still here\n\n" + bytes(events(batch("completed", total=1, succeeded=1)).body)
    server.on(EVENTS, Reply(200, text, {"Content-Type": "text/event-stream"}))
    with Client(server.url, "tq_test") as thoraq:
        events_seen = list(thoraq.batch_events("b1", watch=Listener()))
    assert len(events_seen) == 1
    assert heard


@pytest.mark.parametrize("width", [60, 80, 100])
def test_bars_and_silence_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, images: Path, width: int) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    archive, _ = archive_of([images])
    with Meter(archive, silence_seconds=0.0) as meter:
        meter.begin(0)
        meter.sent(12, 12 * SIZE)
        meter.seen(Batch.model_validate(batch("receiving", total=12, queued=8, succeeded=3, failed=1)))
        deadline = time.monotonic() + EVENT_SECONDS
        while "without a word" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    shown = [line.rstrip() for line in Text.from_ansi(screen.getvalue()).plain.splitlines()]
    assert any(re.match(r"Sending .* 12 of 20 files, [\d.]+ MB/s", line) for line in shown), shown
    assert any(re.match(r"Answering .* 4 of 20 done, 1 unanswered", line) for line in shown), shown
    assert any(re.match(r"Waiting for the server .* \d s without a word", line) for line in shown), shown
    assert all(cell_len(line) <= width for line in shown)


def test_a_server_that_is_not_there_is_not_waited_for_long(server: Server, images: Path) -> None:
    done = thoraq(server, "batch", images, "--url", "http://127.0.0.1:1")
    assert done.returncode == 3
    assert "no answer from 127.0.0.1:1 after 5 attempts: Connection refused" in done.stderr


def test_json_is_the_batch_as_it_ended(server: Server, images: Path) -> None:
    done = thoraq(server, "batch", images, "--json")
    assert done.returncode == 0
    line = json.loads(done.stdout)
    assert (line["id"], line["status"], line["counts"]["succeeded"]) == ("b1", "completed", FILES)


def test_without_waiting_the_command_ends_when_all_is_sent(server: Server, images: Path, tmp_path: Path) -> None:
    done = thoraq(server, "batch", images, "--no-wait")
    assert done.returncode == 0
    assert "thoraq batches results --wait b1" in done.stderr
    assert EVENTS not in server.requests
    assert kept(tmp_path) == []


def test_ctrl_c_in_the_middle_and_the_same_command_goes_on(server: Server, images: Path, tmp_path: Path) -> None:
    server.on(POST, Reply(0, cut=5 * SIZE, hold=True), Reply(202, batch(total=FILES, queued=FILES)))
    command = [*COMMAND, "batch", str(images)]
    process = subprocess.Popen(
        command, env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.wait_for(POST)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=EVENT_SECONDS)
    server.go.set()
    assert (process.returncode, stdout) == (130, "")
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    (state,) = kept(tmp_path)
    assert "export" not in state.read_text()  # names may name patients
    server.on(FIND, Reply(200, {"data": [batch("receiving", next_item=4, total=4)], "next_cursor": None}))
    done = thoraq(server, "batch", images)
    assert done.returncode == 0, done.stderr
    assert "4 of 20 files are in already" in done.stderr
    one, two = server.requests[POST]
    assert [first_item(one), first_item(two)] == ["0", "4"]
    assert members(two) == [f"export/{index:02}.png" for index in range(4, FILES)]
    assert len(set(keys(server))) == 1
    assert kept(tmp_path) == []


def test_ctrl_c_while_waiting_and_the_same_command_waits_on(server: Server, images: Path) -> None:
    running = batch(total=FILES, running=FILES, next_item=FILES)
    server.on(EVENTS, Reply(200, b"", {"Content-Type": "text/event-stream"}, hold=True))
    command = [*COMMAND, "batch", str(images)]
    process = subprocess.Popen(
        command, env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.wait_for(EVENTS)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=EVENT_SECONDS)
    server.go.set()
    assert process.returncode == 130
    server.on(FIND, Reply(200, {"data": [running], "next_cursor": None}))
    server.on(EVENTS, events(running, batch("completed", total=FILES, succeeded=FILES)))
    assert thoraq(server, "batch", images).returncode == 0
    assert len(server.requests[POST]) == 1


def test_a_server_that_fails_is_exit_code_3_and_the_key_is_kept(server: Server, images: Path, tmp_path: Path) -> None:
    server.on(POST, Reply(500, {}), Reply(202, batch(total=FILES)))
    failed = thoraq(server, "batch", images)
    assert failed.returncode == 3
    assert "the same command goes on" in failed.stderr
    assert len(kept(tmp_path)) == 1
    assert thoraq(server, "batch", images).returncode == 0
    assert len(set(keys(server))) == 1


@pytest.mark.parametrize("change", ["ended", "no-resume", "options", "files"])
def test_what_is_another_batch_has_another_key(server: Server, images: Path, change: str) -> None:
    if change != "ended":
        server.on(POST, Reply(500, {}), Reply(202, batch(total=FILES)))
    thoraq(server, "batch", images)
    if change == "files":
        os.utime(images / "00.png", ns=(1, 1))
    options = {"no-resume": ["--no-resume"], "options": ["--priority", "stat"]}.get(change, [])
    assert thoraq(server, "batch", images, *options).returncode == 0
    assert len(set(keys(server))) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--out", "results.txt"], 2),
        (["--errors", "no-such-directory/errors.csv"], 2),
        (["--out", "/proc/results.csv"], 2),
        (["--out", "results.csv", "--no-wait"], 2),
        (["--group-by", "ward"], 2),
        (["no-such-file.png"], 2),
        (["--url", "localhost"], 2),
    ],
)
def test_wrong_usage_sends_nothing(server: Server, images: Path, arguments: list[str], code: int) -> None:
    done = thoraq(server, "batch", images, *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert POST not in server.requests


def test_a_refusal_is_exit_code_4(server: Server, images: Path) -> None:
    server.on(POST, problem(422, "invalid-request"))
    done = thoraq(server, "batch", images, "--classifier", "ensemble")
    assert done.returncode == 4
    assert "A reason" in done.stderr


def test_results_that_cannot_be_fetched_can_be_fetched_later(server: Server, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.ndjson"
    server.on(RESULTS, problem(500, "internal-error"))
    assert thoraq(server, "batch", images, "--out", out).returncode == 3
    ended = batch("completed", total=FILES, succeeded=FILES, next_item=FILES)
    server.on(FIND, Reply(200, {"data": [ended], "next_cursor": None}))
    server.on(RESULTS, lines({"item": 0, "member": "export/00.png", "custom_id": None, "job": succeeded()}))
    done = thoraq(server, "batch", images, "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["member"] == "export/00.png"
    assert len(server.requests[POST]) == 1


def test_a_pipe_gets_a_line_about_the_progress_and_no_escape_sequences(server: Server, images: Path) -> None:
    done = thoraq(server, "batch", images)
    assert "sending: 20 of 20 files" in done.stderr
    assert "answering: 20 of 20 done, 0 unanswered" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "check the ZIP" not in done.stderr


def test_a_terminal_sees_bars(server: Server, images: Path) -> None:
    terminal, stderr = pty.openpty()
    try:
        command = [*COMMAND, "batch", str(images), "--json"]
        done = subprocess.run(
            command, env=environment(server), stdout=subprocess.PIPE, stderr=stderr, timeout=EVENT_SECONDS, check=True
        )
        seen = os.read(terminal, 100_000)
    finally:
        os.close(stderr)
        os.close(terminal)
    assert b"20 of 20 files" in seen
    assert b"MB/s" in seen
    assert json.loads(done.stdout)["id"] == "b1"


def test_a_server_that_counts_otherwise_is_told_of(server: Server, images: Path) -> None:
    server.on(POST, Reply(202, batch(total=FILES + 1, queued=FILES + 1)))
    assert "The server has 21 files where 20 were to be sent" in thoraq(server, "batch", images).stderr


def test_batches_are_listed_looked_at_and_cancelled(server: Server) -> None:
    server.on(FIND, Reply(200, {"data": [batch(batch_id="b2"), batch()], "next_cursor": "more"}))
    server.on("GET /v1/batches/b1", Reply(200, batch("completed_with_errors", total=2, failed=1, succeeded=1)))
    server.on("POST /v1/batches/b1/cancel", Reply(200, batch("cancelled", total=2, cancelled=2)))
    server.on("POST /v1/batches/b2/cancel", problem(409, "conflict"))
    listed = thoraq(server, "batches", "list", "--limit", "2", "--json")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == ["b2", "b1"]
    assert thoraq(server, "batches", "status", "b1").returncode == 1
    assert thoraq(server, "batches", "status", "b1", "no-such-batch").returncode == 4
    assert thoraq(server, "batches", "cancel", "b1").returncode == 0
    late = thoraq(server, "batches", "cancel", "b1", "b2")
    assert late.returncode == 4
    assert "b2: 409" in late.stderr
    assert "cancelled" in late.stdout


def test_results_of_a_batch_are_lines_or_files_and_can_be_waited_for(server: Server, tmp_path: Path) -> None:
    server.on("GET /v1/batches/b1", Reply(200, batch(total=1, running=1)))
    server.on(RESULTS, lines({"item": 0, "member": "a.png", "custom_id": None, "job": succeeded()}))
    now = thoraq(server, "batches", "results", "b1")
    assert now.returncode == 5
    assert json.loads(now.stdout)["job"]["id"] == "j1"
    server.on(EVENTS, events(batch(total=1, running=1), batch("completed", total=1, succeeded=1)))
    out = tmp_path / "results.ndjson"
    done = thoraq(server, "batches", "results", "b1", "--wait", "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["job"]["id"] == "j1"
    assert "completed" in done.stdout
    assert thoraq(server, "batches", "results", "no-such-batch").returncode == 4
