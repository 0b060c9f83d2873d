"""A real HTTP server whose answers are written down beforehand, for what a healthy Thoraq would not do on demand."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.waiting import EVENT_SECONDS

NOTICE = "a notice of the server's own"


@dataclass
class Request:
    """What arrived."""

    headers: dict[str, str]
    path: str
    body: bytes


@dataclass
class Reply:
    """What goes back; status 0 hangs up without a word.

    With `cut`, only that many bytes of the request's body are read; with `hold`, the answer waits for `Server.go`.
    A Content-Length among the headers is sent as it is: with a larger one, the answer breaks off.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: bool = False


class Server(ThreadingHTTPServer):
    """Answers `METHOD /path` with the replies in their order, the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.requests: dict[str, list[Request]] = defaultdict(list)
        self.changed = threading.Condition()
        self.go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def on(self, route: str, *replies: Reply) -> None:
        self.replies[route] = list(replies)

    def next_reply(self, route: str) -> Reply:
        with self.changed:
            replies = self.replies.get(route) or [problem(404, "not-found")]
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def arrived(self, route: str, request: Request) -> None:
        with self.changed:
            self.requests[route].append(request)
            self.changed.notify_all()

    def wait_for(self, route: str) -> None:
        """Until such a request has arrived."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.requests.get(route), timeout=EVENT_SECONDS)


class Handler(BaseHTTPRequestHandler):
    """One connection; of a body, about a megabyte is kept."""

    server: Server
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        route = f"{self.command} {self.path.partition('?')[0]}"
        reply = self.server.next_reply(route)
        body = self.read_body(reply.cut)
        self.server.arrived(route, Request(dict(self.headers), self.path, body))
        if reply.hold:
            self.server.go.wait(EVENT_SECONDS)
        if reply.status == 0 or reply.cut is not None:
            self.close_connection = True
        if reply.status == 0:
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        size = {"Content-Length": str(0 if reply.status in {204, 304} else len(content))}
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | size | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if reply.status not in {204, 304}:
            self.wfile.write(content)
        if "Content-Length" in reply.headers:
            self.close_connection = True

    def read_body(self, cut: int | None) -> bytes:
        body, read = b"", 0
        for data in self.pieces():
            read += len(data)
            body = body + data if len(body) < 2**20 else body
            if cut is not None and read >= cut:
                return body[:cut]
        return body

    def pieces(self) -> Iterator[bytes]:
        """The request's body, sized or chunked (RFC 9112, 7.1), as far as the client sends it."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield from self.sized(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline() or b"0", 16):
            yield from self.sized(size)
            self.rfile.readline()
        self.rfile.readline()

    def sized(self, left: int) -> Iterator[bytes]:
        while left and (data := self.rfile.read(min(left, 65536))):
            left -= len(data)
            yield data

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server looks for these names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own name
        """Quiet: the test reads `requests`."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port, gone at the end."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def job(status: str = "queued", job_id: str = "j1", **more: Any) -> dict[str, Any]:
    moment = "2026-01-02T03:04:05Z"
    base = {"id": job_id, "object": "job", "status": status, "study_id": "s1", "batch_id": None, "image_count": 1}
    base |= {"classifier": "binary", "modality": "xray", "priority": "routine", "attempts": 0}
    return base | {"created_at": moment, "queued_at": moment, "error": None, "result": None} | more


def succeeded(job_id: str = "j1", images: int = 1) -> dict[str, Any]:
    probabilities = {"positive": 0.75, "negative": 0.25}
    image = {"image_id": "i1", "frame": 0, "prediction": "positive", "probabilities": probabilities, "problem": None}
    result = {
        "prediction": "positive",
        "probabilities": probabilities,
        "aggregate": "single",
        "images": [image | {"file": index} for index in range(images)],
        "model": {"name": "thoraq", "version": "1", "sha256": "0" * 64},
        "timings": {"total": 0.5},
        "notice": NOTICE,
    }
    return job("succeeded", job_id, result=result)


def failed(job_id: str = "j1") -> dict[str, Any]:
    error = {"type": "empty-file", "title": "Empty file", "detail": "the file holds no bytes"}
    return job("failed", job_id, error=error)


def batch(status: str = "running", batch_id: str = "b1", next_item: int | None = None, **counts: int) -> dict[str, Any]:
    moment = "2026-01-02T03:04:05Z"
    names = ("total", "queued", "running", "succeeded", "failed", "cancelled", "quarantined", "rejected")
    times = {"created_at": moment, "received_at": None if status == "receiving" else moment}
    base: dict[str, Any] = {"id": batch_id, "object": "batch", "status": status}
    base |= {"next_item": counts.get("total", 0) if next_item is None else next_item}
    return base | times | {"counts": dict.fromkeys(names, 0) | counts}


def problem(status: int, slug: str, **headers: str) -> Reply:
    body = {"type": f"https://x/problems#{slug}", "title": "A title", "status": status, "detail": "A reason"}
    return Reply(status, body, {"Content-Type": "application/problem+json", "X-Request-Id": "r1"} | headers)
