"""The client against a real HTTP server whose answers are written down beforehand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import ApiError, Client, JobFailed, Retry, Unreachable, WaitTimeout
from tests.support.servers.scripted import Reply, Server, failed, job, problem, serving, succeeded

KEY = "tq_test"


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def now(self) -> float:
        return sum(self.slept)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def thoraq(server: Server, time: Time) -> Iterator[Client]:
    with Client(server.url, KEY, retry=Retry(sleep=time.sleep, clock=time.now, jitter=lambda: 0.0)) as client:
        yield client


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "DOE^JANE.png"
    path.write_bytes(b"pixels of the chest")
    return path


def test_submit_sends_the_bytes_and_the_fields_and_the_names_of_the_files(
    server: Server, thoraq: Client, image: Path
) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    sent = thoraq.submit([image, image], classifier="binary", modality="xray", metadata={"ward": 7}, wait=30)
    (request,) = server.requests["POST /v1/jobs"]
    assert (sent.id, sent.done) == ("j1", False)
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Prefer"] == "wait=30"
    assert request.body.count(b'name="files"') == request.body.count(b"pixels of the chest") == 2
    fields = dict(re.findall(rb'name="(\w+)"\r\n\r\n([^\r]*)\r\n', request.body))
    expected = {b"classifier": b"binary", b"modality": b"xray", b"priority": b"routine", b"metadata": b'{"ward": 7}'}
    assert fields == expected
    assert request.body.count(b'filename="DOE^JANE.png"') == 2
    assert str(image.parent).encode() not in request.body


def test_a_name_that_no_form_can_say_is_sent_as_near_as_can_be(server: Server, thoraq: Client, tmp_path: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    files = [Path(os.fsdecode(bytes(tmp_path) + name)) for name in (b"/M\xdcLLER.png", '/肺 "1".png'.encode())]
    for file in files:
        file.write_bytes(b"pixels")
    thoraq.submit(files, classifier="binary")
    (request,) = server.requests["POST /v1/jobs"]
    assert b'filename="M?LLER.png"' in request.body
    assert 'filename="肺 %221%22.png"'.encode() in request.body


@pytest.mark.parametrize("first", [problem(503, "unavailable", **{"Retry-After": "7"}), Reply(0)])
def test_a_repeated_submission_is_the_same_request(
    server: Server, thoraq: Client, time: Time, image: Path, first: Reply
) -> None:
    server.on("POST /v1/jobs", first, Reply(202, job()))
    assert thoraq.submit([image], classifier="binary").id == "j1"
    one, two = server.requests["POST /v1/jobs"]
    assert one.headers["Idempotency-Key"] == two.headers["Idempotency-Key"] != ""
    assert one.body == two.body
    assert time.slept == [7.0 if first.status else 0.25]


def test_every_submission_has_a_key_of_its_own(server: Server, thoraq: Client, image: Path) -> None:
    server.on("POST /v1/jobs", Reply(202, job()))
    for _ in range(2):
        thoraq.submit([image], classifier="binary")
    thoraq.submit([image], classifier="binary", idempotency_key="mine")
    keys = [request.headers["Idempotency-Key"] for request in server.requests["POST /v1/jobs"]]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_attempts_are_bounded_and_back_off(server: Server, thoraq: Client, time: Time) -> None:
    server.on("GET /v1/jobs/j1", problem(429, "slow-down"))
    with pytest.raises(ApiError) as caught:
        thoraq.job("j1")
    assert caught.value.status == 429
    assert time.slept == [0.25, 0.5, 1.0, 2.0]
    server.on("GET /v1/jobs/j2", Reply(0))
    with pytest.raises(Unreachable, match="after 5 attempts"):
        thoraq.job("j2")


def test_a_pause_that_is_too_long_is_an_error_at_once(server: Server, thoraq: Client, time: Time) -> None:
    server.on("GET /v1/jobs/j1", problem(503, "unavailable", **{"Retry-After": "Fri, 31 Dec 2199 23:59:59 GMT"}))
    with pytest.raises(ApiError):
        thoraq.job("j1")
    assert time.slept == []


def test_a_refusal_is_not_repeated_and_says_why(server: Server, thoraq: Client, image: Path) -> None:
    server.on("POST /v1/jobs", problem(422, "invalid-request"))
    with pytest.raises(ApiError) as caught:
        thoraq.submit([image], classifier="ensemble", modality="ct")
    error = caught.value
    assert (error.status, error.type, error.title) == (422, "invalid-request", "A title")
    assert (error.detail, error.request_id) == ("A reason", "r1")
    assert len(server.requests["POST /v1/jobs"]) == 1


def test_an_error_page_of_a_proxy_is_an_api_error(server: Server, thoraq: Client) -> None:
    server.on("GET /v1/jobs/j1", Reply(500, b"<html>", {"Content-Type": "text/html"}))
    with pytest.raises(ApiError, match="500 Internal Server Error"):
        thoraq.job("j1")


def test_what_cannot_be_sent_is_an_error_before_the_request(thoraq: Client, server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one file"):
        thoraq.submit([], classifier="binary")
    with pytest.raises(FileNotFoundError):
        thoraq.submit([tmp_path / "none.png"], classifier="binary")
    with pytest.raises(ValueError, match="http"):
        Client("thoraq.example", KEY)
    assert not server.requests


def test_a_mistyped_id_stays_an_id(server: Server, thoraq: Client) -> None:
    with pytest.raises(ApiError):
        thoraq.job("../models?x=")
    assert list(server.requests) == ["GET /v1/jobs/..%2Fmodels%3Fx%3D"]


def test_waiting_asks_with_the_etag_and_as_seldom_as_the_server_wishes(
    server: Server, thoraq: Client, time: Time
) -> None:
    tag = {"ETag": '"v1"', "Retry-After": "3"}
    server.on("GET /v1/jobs/j1", Reply(200, job("running"), tag), Reply(304, headers=tag), Reply(200, succeeded()))
    result = thoraq.wait("j1").answer()
    first, second, third = (request.headers for request in server.requests["GET /v1/jobs/j1"])
    assert (first.get("If-None-Match"), second["If-None-Match"], third["If-None-Match"]) == (None, '"v1"', '"v1"')
    assert first["Prefer"].startswith("wait=")
    assert time.slept == [3.0, 3.0]
    assert (result.prediction, result.model.version) == ("positive", "1")
    assert result.probabilities == {"positive": 0.75, "negative": 0.25}


def test_a_server_that_knows_no_outcomes_has_answered(server: Server, thoraq: Client) -> None:
    server.on("GET /v1/jobs/j1", Reply(200, succeeded()))
    result = thoraq.job("j1").answer()
    assert (result.outcome, result.rejected, result.needs_review, result.second_opinion) == (
        "answered",
        False,
        False,
        None,
    )


def test_a_rejected_input_is_an_answer_without_numbers(server: Server, thoraq: Client) -> None:
    nothing = {"outcome": "rejected_input", "reason": "not-a-chest-image", "prediction": None, "probabilities": None}
    server.on("GET /v1/jobs/j1", Reply(200, job("succeeded", result=succeeded()["result"] | nothing)))
    result = thoraq.job("j1").answer()
    assert (result.rejected, result.reason, result.prediction) == (True, "not-a-chest-image", None)


def test_heatmaps_are_listed_and_fetched(server: Server, thoraq: Client) -> None:
    listed = {"id": "a1", "kind": "heatmap", "image_id": "i1", "class": "positive", "url": "/v1/jobs/j1/artifacts/a1"}
    server.on("GET /v1/jobs/j1/artifacts", Reply(200, {"object": "list", "data": [listed]}))
    server.on("GET /v1/jobs/j1/artifacts/a1", Reply(200, b"a picture", {"Content-Type": "image/png"}))
    (found,) = thoraq.artifacts("j1")
    assert (found.kind, found.image_id, found.class_name) == ("heatmap", "i1", "positive")
    assert thoraq.heatmap("j1", found.id) == b"a picture"


def test_waiting_ends_at_the_timeout_and_shows_how_far_it_came(server: Server, thoraq: Client, time: Time) -> None:
    server.on("GET /v1/jobs/j1", Reply(200, job("running"), {"Retry-After": "2"}))
    with pytest.raises(WaitTimeout, match="still running") as caught:
        thoraq.wait("j1", timeout=5)
    assert caught.value.last.id == "j1"
    assert time.now() == 5


def test_many_jobs_come_as_they_finish(server: Server, thoraq: Client) -> None:
    server.on("GET /v1/jobs/a", *[Reply(200, job("running", "a"))] * 3, Reply(200, succeeded("a")))
    server.on("GET /v1/jobs/b", Reply(200, job("running", "b"), {"ETag": '"b"'}), Reply(304), Reply(200, failed("b")))
    server.on("GET /v1/jobs/c", Reply(200, succeeded("c")))
    assert [(done.id, done.status) for done in thoraq.wait_many(["a", "b", "c"])] == [
        ("c", "succeeded"),
        ("b", "failed"),
        ("a", "succeeded"),
    ]
    assert server.requests["GET /v1/jobs/b"][2].headers["If-None-Match"] == '"b"'
    assert len(server.requests["GET /v1/jobs/c"]) == 1


def test_a_batch_is_sent_and_waited_for(server: Server, thoraq: Client, image: Path) -> None:
    counts = dict.fromkeys(["queued", "running", "failed", "cancelled", "quarantined"], 0)
    counts |= {"total": 2, "succeeded": 2, "rejected": 0}
    batch = {"id": "b1", "status": "running", "counts": counts, "created_at": "2026-01-02T03:04:05Z"}
    server.on("POST /v1/batches", Reply(202, batch))
    server.on("GET /v1/batches/b1", Reply(200, batch), Reply(200, batch | {"status": "completed"}))
    done = thoraq.wait_batch(thoraq.submit_batch([image, image], classifier="binary", modality="xray"))
    assert (done.done, done.counts.succeeded) == (True, 2)
    assert b'name="priority"\r\n\r\nbulk' in server.requests["POST /v1/batches"][0].body


def test_lists_follow_their_cursors(server: Server, thoraq: Client) -> None:
    pages = [{"data": [job(job_id="j1")], "next_cursor": "c/2"}, {"data": [job(job_id="j2")], "next_cursor": None}]
    server.on("GET /v1/jobs", *(Reply(200, page) for page in pages))
    assert [found.id for found in thoraq.jobs(status="queued", page_size=1)] == ["j1", "j2"]
    queries = [request.path.partition("?")[2] for request in server.requests["GET /v1/jobs"]]
    assert queries == ["status=queued&limit=1", "status=queued&limit=1&cursor=c%2F2"]


def test_a_job_without_an_answer_says_why(server: Server, thoraq: Client) -> None:
    server.on("GET /v1/jobs/j1", Reply(200, failed()), Reply(200, job()), Reply(200, job("vanished", new_field=1)))
    with pytest.raises(JobFailed, match="the file holds no bytes"):
        thoraq.job("j1").answer()
    with pytest.raises(ValueError, match="still queued"):
        thoraq.job("j1").answer()
    assert thoraq.job("j1").failed  # a state of a newer server


def test_webhook_endpoints(server: Server, thoraq: Client) -> None:
    endpoint = {"id": "w1", "url": "https://x", "events": ["*"], "enabled": True, "created_at": "2026-01-02T03:04:05Z"}
    delivery = {"id": "d1", "event_id": "e1", "type": "test", "state": "pending"}
    server.on("POST /v1/webhook-endpoints", Reply(201, endpoint | {"secret": "whsec_hidden"}))
    server.on("GET /v1/webhook-endpoints", Reply(200, {"data": [endpoint]}))
    server.on("POST /v1/webhook-endpoints/w1/test", Reply(202, delivery))
    server.on("GET /v1/webhook-endpoints/w1/deliveries", Reply(200, {"data": [delivery]}))
    server.on("POST /v1/deliveries/d1/redeliver", Reply(202, delivery))
    server.on("DELETE /v1/webhook-endpoints/w1", Reply(204))
    made = thoraq.create_endpoint("https://x", ["*"])
    assert made.secret == "whsec_hidden"
    assert "whsec_hidden" not in repr(made)
    assert [found.secret for found in thoraq.endpoints()] == [None]
    assert thoraq.test_endpoint("w1").state == thoraq.redeliver("d1").state == "pending"
    assert [found.id for found in thoraq.deliveries("w1")] == ["d1"]
    thoraq.delete_endpoint("w1")
    assert len(server.requests["DELETE /v1/webhook-endpoints/w1"]) == 1


SEND_MUCH = """
import resource, sys
from pathlib import Path
from client import Client
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
url, small, large = sys.argv[1:]
with Client(url, "tq_test") as thoraq:
    thoraq.submit([Path(small)] * 500, classifier="binary")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    thoraq.submit([Path(large)], classifier="binary")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_and_open_files_stay_few(server: Server, image: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.dcm"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    server.on("POST /v1/jobs", Reply(202, job()))
    command = [sys.executable, "-c", SEND_MUCH, server.url, str(image), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KiB
    assert int(server.requests["POST /v1/jobs"][1].headers["Content-Length"]) > 200_000_000
