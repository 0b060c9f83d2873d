"""A real HTTP server whose answers are written down beforehand, for what a healthy Thoraq would not do on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOTICE = "a notice of the server's own"


@dataclass
class Request:
    """What arrived."""

    headers: dict[str, str]
    path: str
    body: bytes


@dataclass
class Reply:
    """What goes back; status 0 hangs up without a word."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Answers `METHOD /path` with the replies in their order, the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.requests: dict[str, list[Request]] = defaultdict(list)
        self.changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def on(self, route: str, *replies: Reply) -> None:
        self.replies[route] = list(replies)

    def next_reply(self, route: str, request: Request) -> Reply:
        with self.changed:
            self.requests[route].append(request)
            self.changed.notify_all()
            replies = self.replies.get(route) or [problem(404, "not-found")]
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def wait_for(self, route: str) -> None:
        """Until such a request has arrived."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.requests.get(route), timeout=60)


class Handler(BaseHTTPRequestHandler):
    """One connection; bodies over a megabyte are hashed and forgotten."""

    server: Server
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        left, digest, body = int(self.headers.get("Content-Length", 0)), hashlib.sha256(), b""
        while left:
            chunk = self.rfile.read(min(left, 65536))
            left -= len(chunk)
            digest.update(chunk)
            body = body + chunk if len(body) < 2**20 else body
        route = f"{self.command} {self.path.partition('?')[0]}"
        reply = self.server.next_reply(route, Request(dict(self.headers), self.path, body))
        if reply.status == 0:
            self.close_connection = True
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(0 if reply.status in {204, 304} else len(content)))
        self.end_headers()
        if reply.status not in {204, 304}:
            self.wfile.write(content)

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


def problem(status: int, slug: str, **headers: str) -> Reply:
    body = {"type": f"https://x/problems#{slug}", "title": "A title", "status": status, "detail": "A reason"}
    return Reply(status, body, {"Content-Type": "application/problem+json", "X-Request-Id": "r1"} | headers)
