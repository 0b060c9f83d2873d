"""The ASGI application of one process."""

from __future__ import annotations

from typing import Any

from flask import Flask

from api.edge.body import Incoming, Receive
from api.edge.environ import environ_of
from api.edge.exchange import Exchange
from api.edge.reply import Reply, Send
from api.edge.state import State
from shared.config import Settings

#: Of /healthz, which is answered whatever else goes on; with the headers that api/__init__.py adds to other answers.
HEADERS = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
]
ALIVE = Reply(200, HEADERS, b'{"status":"alive"}\n')


class Edge:
    """It reads requests, and has the WSGI application answer them in threads."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._state = State(app, settings)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/healthz" and scope["method"] == "GET":
            await ALIVE.send(send)
        else:
            await Exchange(self._state, environ_of(scope), Incoming(receive), send).serve()
