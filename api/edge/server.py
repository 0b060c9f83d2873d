"""The ASGI application of one process."""

from __future__ import annotations

from typing import Any

from flask import Flask

from api.edge.body import Incoming, Receive
from api.edge.environ import environ_of
from api.edge.exchange import Exchange
from api.edge.reply import Reply, Send
from api.edge.state import State
from api.http.headers import default_headers
from shared.config import Settings


class Edge:
    """It reads requests, and has the WSGI application answer them in threads."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._state = State(app, settings)
        #: of /healthz, which is answered whatever else goes on
        headers = [("Content-Type", "application/json"), *default_headers(settings)]
        self._alive = Reply(200, headers, b'{"status":"alive"}\n')

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/healthz" and scope["method"] == "GET":
            await self._alive.send(send)
        else:
            await Exchange(self._state, environ_of(scope), Incoming(receive), send).serve()
