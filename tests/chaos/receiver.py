"""A webhook receiver that can fail: it answers 500, redirects, hangs, or does not listen."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from standalone.services import HOST, free_port


class Receiver:
    """An endpoint in threads of this process, on one port for good; `mode` is "well" or the fault that it has.

    What was verified and answered with 204 counts as accepted; what was answered otherwise does not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.secret = ""
        self.mode = "well"
        #: How often each webhook-id was accepted.
        self.accepted: Counter[str] = Counter()
        #: The webhook-ids that told of the end of a job.
        self.told: dict[str, set[str]] = {}
        self.unverified = 0
        #: Where it redirects to.
        self.elsewhere = f"http://{HOST}:1/"
        self._port = free_port()
        self._lock = threading.Lock()
        self._well = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.recover()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._well.set()
        self._close()

    @property
    def port(self) -> int:
        """Where it listens, when it does."""
        return self._port

    @property
    def url(self) -> str:
        """Its address as an endpoint."""
        return f"http://{HOST}:{self._port}/thoraq"

    def fail(self, mode: str) -> None:
        """Be in a bad way: "500", "redirect", "hang" or "down"."""
        self.mode = mode
        self._well.clear()
        if mode == "down":
            self._close()

    def recover(self) -> None:
        """Be well again; what hangs is let go without an answer."""
        self.mode = "well"
        self._well.set()
        if self._server is None:
            self._server = _Server((HOST, self._port), self._handler())
            threading.Thread(target=self._server.serve_forever, name=f"receiver-{self.name}", daemon=True).start()

    def receive(self, body: bytes, headers: dict[str, str]) -> int | None:
        """The status to answer with, or None: hang up."""
        mode = self.mode
        if mode == "hang":
            self._well.wait(60)
            return None
        if mode != "well":
            return 307 if mode == "redirect" else 500
        try:
            event = Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError:
            with self._lock:
                self.unverified += 1
            return 400
        self._accept({name.lower(): value for name, value in headers.items()}["webhook-id"], event)
        return 204

    def _accept(self, webhook_id: str, event: dict[str, object]) -> None:
        data = event["data"]
        with self._lock:
            self.accepted[webhook_id] += 1
            if str(event["type"]).startswith("job.") and isinstance(data, dict):
                self.told.setdefault(str(data["id"]), set()).add(webhook_id)

    def _close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = receiver.receive(body, dict(self.headers.items()))
                if status is None:
                    self.close_connection = True
                    return
                try:
                    self.send_response(status)
                    if status == 307:
                        self.send_header("Location", receiver.elsewhere)
                    self.end_headers()
                except OSError:
                    # The sender died or gave up: it does not know that this was accepted, and sends it again.
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Silent: the run counts."""

        return Handler


class _Server(ThreadingHTTPServer):
    # A hanging request must not hold the end of the server.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
