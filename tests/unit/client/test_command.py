"""The `thoraq` command as scripts and people use it: output, exit codes, terminals, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from client.cli import app
from tests.support.command import COMMAND, environment, into, left_pipe, thoraq
from tests.support.servers.scripted import NOTICE, Reply, Server, batch, failed, job, problem, serving, succeeded
from tests.support.waiting import EVENT_SECONDS

ANSWER: dict[str, Any] = succeeded()["result"]
REFUSAL = {"type": "https://x/problems#invalid-request", "title": "A title", "status": 422, "detail": "A reason"}
HEATMAP = {"id": "a1", "kind": "heatmap", "image_id": "i1", "class": "positive", "url": "/v1/jobs/j1/artifacts/a1"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "series").mkdir(parents=True)
    (folder / "a.PNG").write_bytes(b"a")
    (folder / "series" / "0001").write_bytes(bytes(128) + b"DICM" + b"b")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "notes.txt").write_bytes(b"c")
    return folder


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_directory_is_searched_for_images_and_each_is_a_job(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job(job_id="j1")), Reply(202, job(job_id="j2")))
    done = thoraq(server, "submit", images, images / "a.PNG", "--modality", "xray", "--priority", "stat", "--json")
    assert done.returncode == 0
    assert {line["id"]: line["status"] for line in lines(done)} == {"j1": "queued", "j2": "queued"}
    sent = sorted(file for line in lines(done) for file in line["files"])
    assert sent == [str(images / "a.PNG"), str(images / "series" / "0001")]
    assert "2 other files were skipped" in done.stderr
    assert all(b"stat" in request.body for request in server.requests["POST /v1/jobs"])


def test_a_study_is_one_job(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    done = thoraq(server, "submit", images, "--study", "--external-id", "x7")
    (request,) = server.requests["POST /v1/jobs"]
    assert request.body.count(b'name="files"') == 2
    assert done.returncode == 0
    assert "j1" in done.stdout
    assert "queued" in done.stdout


def test_results_are_a_table_with_the_notice_and_a_failed_job_is_exit_code_1(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job(job_id="j1")), Reply(202, job(job_id="j2")))
    server.on("GET /v1/jobs/j1", Reply(200, job(job_id="j1")), Reply(200, succeeded("j1", images=2)))
    server.on("GET /v1/jobs/j2", Reply(200, failed("j2")))
    done = thoraq(server, "submit", images, "--modality", "xray", "--wait")
    assert done.returncode == 1
    assert "positive 0.750, negative 0.250" in done.stdout
    assert "Images of j1" in done.stdout
    assert "the file holds no bytes" in done.stdout
    assert done.stdout.rstrip().endswith(NOTICE)
    assert "\x1b" not in done.stdout + done.stderr


def test_results_say_what_needs_review_and_why(server: Server) -> None:
    second = {"classifier": "binary", "prediction": "negative", "probabilities": {"positive": 0.4, "negative": 0.6}}
    reasons = {"needs_review": True, "review_reasons": ["thin-margin", "classifiers-disagree"]}
    corrected = {"modality": "ct", "modality_corrected": True}
    result = ANSWER | reasons | corrected | {"outcome": "answered", "second_opinion": second}
    server.on("GET /v1/jobs/j1", Reply(200, job("succeeded", result=result)))
    done = thoraq(server, "results", "j1")
    assert done.returncode == 0
    for said in ("answered", "thin margin, classifiers disagree", "binary: negative 0.600, positive 0.400", "ct"):
        assert said in done.stdout


def test_a_rejected_input_has_its_reason_and_no_number(server: Server) -> None:
    image = {"image_id": "i1", "file": 0, "frame": 0, "rejected": "not-a-chest-image"}
    said = {
        "outcome": "rejected_input",
        "reason": "not-a-chest-image",
        "detail": "No chest is seen.",
        "aggregate": "none",
    }
    result = ANSWER | said | {"prediction": None, "probabilities": None, "images": [image, image | {"file": 1}]}
    server.on("GET /v1/jobs/j1", Reply(200, job("succeeded", result=result)))
    done = thoraq(server, "results", "j1")
    assert done.returncode == 0
    for text in ("rejected", "No chest is seen.", "0 of 2", "not a chest image"):
        assert text in done.stdout
    assert "Probabilities" not in done.stdout


def test_heatmaps_are_saved_under_the_job_the_file_and_the_frame(server: Server, tmp_path: Path) -> None:
    server.on("GET /v1/jobs/j1", Reply(200, succeeded()))
    server.on("GET /v1/jobs/j1/artifacts", Reply(200, {"object": "list", "data": [HEATMAP, HEATMAP | {"kind": "new"}]}))
    server.on("GET /v1/jobs/j1/artifacts/a1", Reply(200, b"a picture", {"Content-Type": "image/png"}))
    folder = tmp_path / "a" / "b"
    done = thoraq(server, "heatmap", "j1", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(folder / "j1-0-0.png")]
    assert [path.read_bytes() for path in folder.iterdir()] == [b"a picture"]


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        (Reply(200, succeeded()), 0, "no heatmap, the server kept none"),
        (Reply(200, job("succeeded", result=ANSWER | {"outcome": "rejected_input"})), 0, "the input was rejected"),
        (Reply(200, job("running")), 5, "the job is running"),
        (Reply(200, failed()), 1, "the job is failed"),
        (problem(404, "not-found"), 4, "A reason"),
    ],
)
def test_a_job_without_heatmaps_says_why(server: Server, tmp_path: Path, reply: Reply, code: int, said: str) -> None:
    server.on("GET /v1/jobs/j1", reply)
    server.on("GET /v1/jobs/j1/artifacts", Reply(200, {"object": "list", "data": []}))
    done = thoraq(server, "heatmap", "j1", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_heatmaps_that_cannot_be_written_are_told(server: Server, tmp_path: Path) -> None:
    server.on("GET /v1/jobs/j1", Reply(200, succeeded()))
    server.on("GET /v1/jobs/j1/artifacts", Reply(200, {"object": "list", "data": [HEATMAP]}))
    server.on("GET /v1/jobs/j1/artifacts/a1", Reply(200, b"a picture"))
    (tmp_path / "file").touch()
    done = thoraq(server, "heatmap", "j1", "--out", tmp_path / "file" / "folder")
    assert done.returncode == 2
    assert "j1: " in done.stderr
    assert "Traceback" not in done.stderr


def test_waiting_for_json_prints_each_job_once_when_it_has_ended(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    server.on("GET /v1/jobs/j1", Reply(200, job("running"), {"Retry-After": "0"}), Reply(200, succeeded()))
    done = thoraq(server, "submit", images / "a.PNG", "--modality", "xray", "--wait", "--json")
    assert done.returncode == 0
    assert [(line["status"], line["result"]["prediction"]) for line in lines(done)] == [("succeeded", "positive")]


def test_one_refused_file_does_not_hide_the_others(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", problem(413, "payload-too-large"), Reply(202, job()))
    done = thoraq(server, "submit", images, "--json")
    assert done.returncode == 4
    assert {line.get("id"): line.get("problem", {}).get("type") for line in lines(done)} == {
        None: "payload-too-large",
        "j1": None,
    }


def test_a_key_that_is_refused_stops_the_sending(server: Server, tmp_path: Path) -> None:
    for index in range(200):
        (tmp_path / f"{index}.png").write_bytes(b"pixels")
    server.on("POST /v1/jobs", problem(401, "unauthenticated"))
    done = thoraq(server, "submit", tmp_path, "--json")
    assert done.returncode == 4
    assert "of 200 studies were not sent" in done.stderr
    assert len(server.requests["POST /v1/jobs"]) < 200


@pytest.mark.parametrize(
    ("arguments", "reply", "code"),
    [
        (["status", "j1"], Reply(200, job()), 0),
        (["status", "j1"], Reply(200, failed()), 1),
        (["status", "j1", "--no-such-option"], Reply(200, job()), 2),
        (["submit", "no-such-file.png"], Reply(200, job()), 2),
        (["status", "j1", "--url", "localhost"], Reply(200, job()), 2),
        (["status", "j1"], Reply(500, {}), 3),
        (["status", "j1"], problem(404, "not-found"), 4),
        (["results", "j1"], Reply(200, job("running")), 5),
        (["results", "j1", "j1"], Reply(200, succeeded()), 0),
        (["results", "j1", "--wait"], Reply(200, job("cancelled")), 1),
    ],
)
def test_exit_codes(server: Server, arguments: list[str], reply: Reply, code: int) -> None:
    server.on("GET /v1/jobs/j1", reply)
    assert thoraq(server, *arguments).returncode == code


def test_cancelling_is_a_success_and_coming_too_late_a_refusal(server: Server) -> None:
    server.on("POST /v1/jobs/j1/cancel", Reply(200, job("cancelled")))
    server.on("POST /v1/jobs/j2/cancel", problem(409, "conflict"))
    assert thoraq(server, "cancel", "j1").returncode == 0
    late = thoraq(server, "cancel", "j1", "j2", "--json")
    assert late.returncode == 4
    assert [(line["id"], line.get("problem", {}).get("type")) for line in lines(late)] == [
        ("j1", None),
        ("j2", "conflict"),
    ]


def test_lists(server: Server) -> None:
    server.on("GET /v1/jobs", Reply(200, {"data": [job(job_id="j1"), job(job_id="j2")], "next_cursor": "more"}))
    done = thoraq(server, "jobs", "--status", "queued", "--limit", "2", "--json")
    assert [line["id"] for line in lines(done)] == ["j1", "j2"]
    assert [request.path for request in server.requests["GET /v1/jobs"]] == [
        "/v1/jobs?status=queued&include=result&limit=2"
    ]
    model = {"name": "thoraq", "version": "1", "sha256": "f" * 64, "card": {"heads": {"binary": {}}}, "serving": True}
    server.on("GET /v1/models", Reply(200, {"data": [model]}))
    table = thoraq(server, "models").stdout
    assert "f" * 64 in table
    assert "binary" in table


def test_what_the_server_says_of_each_field_is_told(server: Server, images: Path) -> None:
    errors = [{"field": "modality", "message": "wanted"}, {"pointer": "#/files/1", "message": "too large"}]
    refusal = Reply(422, REFUSAL | {"errors": errors}, {"Content-Type": "application/problem+json"})
    server.on("POST /v1/jobs", refusal)
    server.on("GET /v1/models", refusal)
    assert "422 A title: A reason; modality: wanted; #/files/1: too large" in thoraq(server, "submit", images).stdout
    told = thoraq(server, "models").stderr.splitlines()
    assert told == ["422 A title: A reason", "  modality: wanted", "  #/files/1: too large"]


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("command", [[], ["submit"], ["batch"], ["batches"], ["batches", "results"]], ids=" ".join)
def test_help_fits_the_terminal_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((width, 24)))
    with pytest.raises(SystemExit):
        app([*command, "--help"], prog_name="thoraq")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert [line for line in lines if re.match(r"  [a-z]+  .*\.\.\.$", line) or "\u2026" in line] == []


def test_the_version_is_printed(server: Server) -> None:
    assert thoraq(server, "--version").stdout == f"thoraq {version('thoraq')}\n"


def test_a_server_that_is_none_of_ours_is_told(server: Server) -> None:
    server.on("GET /v1/models", Reply(200, b"<html>Welcome</html>"))
    server.on("GET /v1/jobs/j1", Reply(200, {"status": "up"}))
    for command in (["models"], ["status", "j1"]):
        done = thoraq(server, *command)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == f"what {server.url} answers is not Thoraq's: is it the right address?\n"


OUTPUTS = [["--help"], ["jobs"], ["jobs", "--json"], ["batches", "results", "b1"]]


@pytest.fixture
def answering(server: Server) -> Server:
    """A server with an answer for each of OUTPUTS."""
    server.on("GET /v1/jobs", Reply(200, {"data": [succeeded()]}))
    server.on("GET /v1/batches/b1", Reply(200, batch("completed", total=1, succeeded=1)))
    server.on("GET /v1/batches/b1/results", Reply(200, json.dumps({"item": 0, "job": succeeded()}).encode()))
    return server


@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_output_that_cannot_be_written_is_a_line_and_an_exit_code(answering: Server, arguments: list[str]) -> None:
    command, env = [*COMMAND, *arguments], environment(answering)
    full, left = os.open("/dev/full", os.O_WRONLY), left_pipe()
    try:
        done = [into(stdout, command, env) for stdout in (full, None, left)]
    finally:
        os.close(full)
        os.close(left)
    assert [one.stderr for one in done] == [
        "thoraq: standard output: No space left on device\n",
        "thoraq: standard output: it is closed\n",
        "",
    ]
    assert [one.returncode for one in done] == [2, 2, 141]


def test_ctrl_c_leaves_the_job_and_says_how_to_find_it(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    server.on("GET /v1/jobs/j1", Reply(200, job("running"), {"Retry-After": "60"}))
    command = [*COMMAND, "submit", str(images / "a.PNG"), "--wait", "--json"]
    process = subprocess.Popen(
        command, env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.wait_for("GET /v1/jobs/j1")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=EVENT_SECONDS)
    assert process.returncode == 130
    assert stdout == ""
    assert "thoraq results --wait j1" in stderr
    assert "POST /v1/jobs/j1/cancel" not in server.requests


def test_a_terminal_sees_progress_and_a_pipe_only_json(server: Server, images: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    terminal, stderr = pty.openpty()
    try:
        command = [*COMMAND, "submit", str(images / "a.PNG"), "--json"]
        done = subprocess.run(
            command, env=environment(server), stdout=subprocess.PIPE, stderr=stderr, timeout=EVENT_SECONDS, check=True
        )
        assert b"Sending" in os.read(terminal, 100_000)
    finally:
        os.close(stderr)
        os.close(terminal)
    assert json.loads(done.stdout)["id"] == "j1"
