"""A webhook receiver, as a hospital would write it: it takes what is sent and verifies who sent it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from standalone.services import HOST

LARGEST_BODY = 10_000_000


class Receiver:
    """An HTTP server in a thread, on a free loopback port, from `with` on.

    A request with a good signature is answered with 204 and its event given to `on_event`, in the server's thread;
    another with 400, and its reason is kept in `refused`. `secret` is known once the endpoint is made.
    """

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.secret = ""
        self.refused: list[str] = []
        self._on_event = on_event
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook-receiver", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._server.server_port}/thoraq"

    def receive(self, body: bytes, headers: dict[str, str]) -> bool:
        """Verify one delivery and hand its event on; False when the signature does not hold."""
        try:
            event: dict[str, Any] = Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError as error:
            self.refused.append(str(error))
            return False
        self._on_event(event)
        return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length", 0)), LARGEST_BODY)
                good = receiver.receive(self.rfile.read(length), dict(self.headers.items()))
                self.send_response(204 if good else 400)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent: the demo prints what it verified."""

        return Handler
