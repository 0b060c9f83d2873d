"""The client's batches against a real HTTP server whose answers are written down beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from stream_unzip import stream_unzip

from client import ApiError, Archive, Batch, BatchOptions, Client, Retry, Unreachable, Watch, archive_of
from tests.support.servers.scripted import Reply, Request, Server, batch, problem, serving, succeeded

OPTIONS = BatchOptions("binary", modality="xray")
POST, FIND = "POST /v1/batches", "GET /v1/batches"
NONE = Reply(200, {"data": [], "next_cursor": None})
SIZE = 100_000


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def now(self) -> float:
        return sum(self.slept)


class Told(Watch):
    """What a watcher hears."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.items: list[int] = []
        self.size = 0
        self.batches: list[Batch] = []

    def begin(self, item: int) -> None:
        self.begun.append(item)

    def sent(self, items: int, size: int) -> None:
        self.items.append(items)
        self.size += size

    def seen(self, batch: Batch) -> None:
        self.batches.append(batch)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def thoraq(server: Server, time: Time) -> Iterator[Client]:
    with Client(server.url, "tq_test", retry=Retry(sleep=time.sleep, clock=time.now, jitter=lambda: 0.0)) as client:
        yield client


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    folder = tmp_path / "export"
    folder.mkdir()
    for index in range(8):
        (folder / f"{index}.png").write_bytes(bytes([index]) * SIZE)
    return archive_of([folder])[0]


def found(*batches: dict[str, Any]) -> Reply:
    return Reply(200, {"data": list(batches), "next_cursor": None})


def query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.path.partition("?")[2]))


def members(request: Request) -> list[str]:
    return [name.decode() for name, _, data in stream_unzip([request.body]) if list(data)]


def test_a_batch_is_one_stream_with_its_options_and_its_key(server: Server, thoraq: Client, archive: Archive) -> None:
    server.on(FIND, NONE)
    server.on(POST, Reply(202, batch(total=8, queued=8)))
    options = BatchOptions("ensemble", "xray", "routine", "folder", "x 7", 3600, force=True)
    sent = thoraq.send_batch(archive, options, idempotency_key="k")
    assert (sent.id, sent.done, sent.counts.total) == ("b1", False, 8)
    assert [query(request)["idempotency_key"] for request in server.requests[FIND]] == ["k"]
    (request,) = server.requests[POST]
    assert request.headers["Content-Type"] == "application/zip"
    assert (request.headers["Idempotency-Key"], request.headers["Transfer-Encoding"]) == ("k", "chunked")
    assert query(request) == {
        "classifier": "ensemble",
        "modality": "xray",
        "priority": "routine",
        "group_by": "folder",
        "external_id": "x 7",
        "expires_in": "3600",
        "force": "true",
        "first_item": "0",
    }
    assert members(request) == [f"export/{index}.png" for index in range(8)]


def test_what_was_not_asked_for_is_not_sent_and_every_batch_has_a_key(
    server: Server, thoraq: Client, archive: Archive
) -> None:
    server.on(FIND, NONE)
    server.on(POST, Reply(202, batch()))
    for _ in range(2):
        thoraq.send_batch(archive, BatchOptions("binary"))
    one, two = server.requests[POST]
    assert query(one) == {"classifier": "binary", "priority": "bulk", "group_by": "file", "first_item": "0"}
    assert one.headers["Idempotency-Key"] != two.headers["Idempotency-Key"]


@pytest.mark.parametrize("status", [0, 503])
def test_an_upload_that_breaks_goes_on_where_it_broke(
    server: Server, thoraq: Client, archive: Archive, time: Time, status: int
) -> None:
    server.on(FIND, NONE, found(batch("receiving", next_item=3, total=3)))
    cut = Reply(0, cut=4 * SIZE) if status == 0 else problem(503, "unavailable", **{"Retry-After": "9"})
    server.on(POST, cut, Reply(202, batch(total=8)))
    watch = Told()
    assert thoraq.send_batch(archive, OPTIONS, watch=watch).counts.total == 8
    one, two = server.requests[POST]
    assert one.headers["Idempotency-Key"] == two.headers["Idempotency-Key"]
    assert query(two) == query(one) | {"first_item": "3"}
    assert members(two) == [f"export/{index}.png" for index in range(3, 8)]
    assert time.slept == [9.0 if status else 0.25]
    assert watch.begun == [0, 3]
    assert [view.next_item for view in watch.batches] == [3]


def test_an_upload_is_tried_on_as_long_as_it_comes_further(
    server: Server, thoraq: Client, archive: Archive, time: Time
) -> None:
    server.on(FIND, NONE, *(found(batch("receiving", next_item=n)) for n in range(1, 8)))
    server.on(POST, *[problem(502, "bad-gateway")] * 7, Reply(202, batch()))
    thoraq.send_batch(archive, OPTIONS)
    assert time.slept == [0.25] * 7


def test_an_upload_waits_for_room_as_long_as_the_server_says(
    server: Server, thoraq: Client, archive: Archive, time: Time
) -> None:
    server.on(FIND, NONE)
    full = problem(429, "queue-full", **{"Retry-After": "15"})
    server.on(POST, *[full] * 9, Reply(202, batch(total=8)))
    assert thoraq.send_batch(archive, OPTIONS).counts.total == 8
    assert time.slept == [15.0] * 9


def test_an_upload_that_comes_no_further_is_given_up(
    server: Server, thoraq: Client, archive: Archive, time: Time
) -> None:
    server.on(FIND, NONE, found(batch("receiving", next_item=2)))
    server.on(POST, Reply(0, cut=SIZE))
    with pytest.raises(Unreachable):
        thoraq.send_batch(archive, OPTIONS)
    assert len(server.requests[POST]) == 6  # one from the start, five from item 2
    assert time.slept == [0.25, 0.25, 0.5, 1.0, 2.0]


def test_the_server_is_given_time_to_notice_that_a_connection_broke(
    server: Server, thoraq: Client, archive: Archive
) -> None:
    server.on(FIND, found(batch("receiving", next_item=5)))
    server.on(POST, problem(409, "idempotency-in-progress"), Reply(202, batch()))
    thoraq.send_batch(archive, OPTIONS)
    assert [members(request) for request in server.requests[POST]] == [[f"export/{n}.png" for n in (5, 6, 7)]] * 2


@pytest.mark.parametrize("refusal", [problem(409, "idempotency-key-reused"), problem(413, "payload-too-large")])
def test_a_refusal_is_not_repeated(server: Server, thoraq: Client, archive: Archive, refusal: Reply) -> None:
    server.on(FIND, NONE)
    server.on(POST, refusal)
    with pytest.raises(ApiError):
        thoraq.send_batch(archive, OPTIONS)
    assert len(server.requests[POST]) == 1


def test_a_refusal_in_the_middle_is_heard(server: Server, thoraq: Client, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(50_000_000)
    server.on(FIND, NONE)
    refusal = problem(422, "not-streamable")
    server.on(POST, Reply(refusal.status, refusal.body, refusal.headers, cut=SIZE), refusal)
    # With what was not read still on the wire, the answer may be lost to the closed connection: then it is asked again.
    with pytest.raises(ApiError) as caught:
        thoraq.send_batch(archive_of([tmp_path])[0], OPTIONS)
    assert caught.value.type == "not-streamable"


def test_a_key_that_is_refused_is_heard_of_before_anything_is_sent(
    server: Server, thoraq: Client, archive: Archive
) -> None:
    server.on(FIND, problem(401, "unauthenticated"))
    with pytest.raises(ApiError):
        thoraq.send_batch(archive, OPTIONS)
    assert POST not in server.requests


@pytest.mark.parametrize("status", ["running", "completed", "cancelled"])
def test_what_is_in_is_not_sent_again(server: Server, thoraq: Client, archive: Archive, status: str) -> None:
    server.on(FIND, found(batch(status, next_item=8, total=8)))
    assert thoraq.send_batch(archive, OPTIONS, idempotency_key="k").status == status
    assert POST not in server.requests


def test_a_batch_that_is_all_in_but_not_closed_is_closed_with_an_empty_zip(
    server: Server, thoraq: Client, archive: Archive
) -> None:
    server.on(FIND, found(batch("receiving", next_item=8, total=8)))
    server.on(POST, Reply(202, batch(total=8)))
    thoraq.send_batch(archive, OPTIONS)
    (request,) = server.requests[POST]
    assert (query(request)["first_item"], members(request)) == ("8", [])


def test_a_watcher_hears_how_much_is_sent(server: Server, thoraq: Client, archive: Archive) -> None:
    server.on(FIND, NONE)
    server.on(POST, Reply(202, batch(total=8)))
    watch = Told()
    thoraq.send_batch(archive, OPTIONS, watch=watch)
    assert watch.items == sorted(watch.items)
    assert watch.items[-1] == 8
    assert 8 * SIZE <= watch.size < 8 * SIZE * 1.02


def test_a_watcher_sees_the_jobs_that_run_while_the_rest_is_sent(server: Server, archive: Archive) -> None:
    server.on(FIND, NONE, found(batch("receiving", next_item=4, total=4, succeeded=2, running=2)))
    server.on(POST, Reply(202, batch(total=8)))
    watch = Told()
    ticks = iter(range(0, 1000, 3))  # the clock goes on by three seconds whenever somebody looks at it
    with Client(server.url, "tq_test", retry=Retry(clock=lambda: float(next(ticks)))) as thoraq:
        thoraq.send_batch(archive, OPTIONS, watch=watch)
    assert watch.batches
    assert {view.counts.done for view in watch.batches} == {2}


def events(*views: tuple[str, dict[str, Any]], **headers: str) -> Reply:
    text = ": hello\n\n" + "".join(f"event: {name}\ndata: {json.dumps(view)}\n\n" for name, view in views)
    return Reply(200, text.encode(), {"Content-Type": "text/event-stream"} | headers)


def test_events_go_on_over_broken_and_ended_connections(server: Server, thoraq: Client, time: Time) -> None:
    progress = [("progress", batch(total=4, succeeded=n, queued=4 - n)) for n in range(4)]
    server.on(
        "GET /v1/batches/b1/events",
        events(*progress[:2]),
        events(),
        events(*progress[2:3], **{"Content-Length": "100000"}),
        Reply(0),
        events(progress[3], ("end", batch("completed", total=4, succeeded=4))),
    )
    seen = list(thoraq.batch_events("b1"))
    assert [view.counts.done for view in seen] == [0, 1, 2, 3, 4]
    assert (seen[-1].done, seen[-1].failed, seen[-2].done) == (True, False, False)
    assert time.slept == [0.0, 1.0, 0.25, 0.25]


def test_events_of_a_server_that_stays_away_end_in_an_error(server: Server, thoraq: Client) -> None:
    server.on("GET /v1/batches/b1/events", events(("progress", batch())), Reply(0))
    seen = thoraq.batch_events("b1")
    assert next(seen).id == "b1"
    with pytest.raises(Unreachable):
        next(seen)
    server.on("GET /v1/batches/b2/events", problem(404, "not-found"))
    with pytest.raises(ApiError):
        next(thoraq.batch_events("b2"))


def test_results_and_errors_are_typed_lines(server: Server, thoraq: Client) -> None:
    reason = {"type": "empty-file", "title": "Empty file", "detail": "the file holds no bytes"}
    answered = {"item": 0, "member": "a.png", "custom_id": None, "job": succeeded()}
    rejected = {"item": 1, "member": "b.png", "custom_id": None, "job_id": None, "status": "rejected"}
    ndjson = {"Content-Type": "application/x-ndjson"}
    server.on("GET /v1/batches/b1/results", Reply(200, json.dumps(answered).encode() + b"\n", ndjson))
    server.on(
        "GET /v1/batches/b1/errors", Reply(200, json.dumps(rejected | {"problem": reason}).encode() + b"\n", ndjson)
    )
    (result,) = thoraq.batch_results("b1")
    (error,) = thoraq.batch_errors("b1")
    assert (result.item, result.member, result.job.answer().prediction) == (0, "a.png", "positive")
    assert error.problem is not None
    assert (error.item, error.status, error.problem.detail) == (1, "rejected", "the file holds no bytes")
    assert server.requests["GET /v1/batches/b1/results"][0].headers["Accept"] == "application/x-ndjson"


def test_a_saved_file_is_whole_or_not_there(server: Server, thoraq: Client, tmp_path: Path) -> None:
    table, path = b"item,member\n0,a.png\n", tmp_path / "results.csv"
    broken = Reply(200, table[:7], {"Content-Length": "20"})
    server.on("GET /v1/batches/b1/results", broken, broken, Reply(200, table))
    thoraq.save_batch("b1", "results", path, "csv")
    assert path.read_bytes() == table
    assert server.requests["GET /v1/batches/b1/results"][0].headers["Accept"] == "text/csv"
    server.on("GET /v1/batches/b1/results", broken)
    with pytest.raises(Unreachable, match="broke off"):
        thoraq.save_batch("b1", "results", tmp_path / "other.csv", "csv")
    assert list(tmp_path.iterdir()) == [path]


def test_lists_and_cancels(server: Server, thoraq: Client) -> None:
    server.on(
        FIND,
        Reply(200, {"data": [batch(batch_id="b2")], "next_cursor": "c"}),
        Reply(200, {"data": [batch(batch_id="b1")], "next_cursor": None}),
    )
    server.on("POST /v1/batches/b1/cancel", Reply(200, batch("cancelled", total=3, cancelled=2, succeeded=1)))
    assert [view.id for view in thoraq.batches(page_size=1)] == ["b2", "b1"]
    ended = thoraq.cancel_batch("b1")
    assert (ended.done, ended.failed, ended.counts.unanswered) == (True, True, 2)


SEND_MUCH = """
import resource, sys
from pathlib import Path
from client import BatchOptions, Client, archive_of
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
url, *folders = sys.argv[1:]
with Client(url, "tq_test") as thoraq:
    grown = []
    for folder in folders:
        thoraq.send_batch(archive_of([Path(folder)])[0], BatchOptions("binary"))
        grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(grown[-1] - grown[0])
"""


def test_memory_and_open_files_stay_few(server: Server, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    for index in range(300):
        (small / f"{index}.png").write_bytes(bytes(20_000))
    with (large / "large.dcm").open("wb") as file:
        file.truncate(200_000_000)
    server.on(FIND, NONE)
    server.on(POST, Reply(202, batch()))
    command = [sys.executable, "-c", SEND_MUCH, server.url, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000  # KiB
