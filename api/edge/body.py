"""A request's body: read by the event loop, with a deadline for every piece, so that a thread never waits for a client.

What is small and comes at once is complete before a thread is taken. The rest is handed to its thread piece by piece.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from typing import Any

from werkzeug.exceptions import ClientDisconnected

from shared.errors import SlowBody

Receive = Callable[[], Awaitable[dict[str, Any]]]
#: So much of a body is held in memory before a thread is taken, and so long it is waited for.
BEFORE_BYTES, BEFORE_SECONDS = 1_000_000, 0.5


class Incoming:
    """What a client sends, for one event loop."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        # Kept beyond a deadline: a `receive` that is cancelled takes its piece along.
        self._next: asyncio.Future[dict[str, Any]] | None = None
        self.ended = self.gone = False

    async def piece(self, seconds: float) -> bytes | None:
        """Return the next piece, empty at the end; None when none came in time. ClientDisconnected."""
        if self.ended:
            return b""
        if self._next is None:
            self._next = asyncio.ensure_future(self._receive())
        await asyncio.wait((self._next,), timeout=max(seconds, 0))
        if not self._next.done():
            return None
        message, self._next = self._next.result(), None
        if message["type"] != "http.request":
            self.ended = self.gone = True
            raise ClientDisconnected
        self.ended = not message.get("more_body", False)
        found: bytes = message.get("body", b"")
        return found or (b"" if self.ended else await self.piece(seconds))

    async def beginning(self, most: int, seconds: float) -> bytes:
        """Return what comes within so many seconds, until it ends or is so long (and a piece longer)."""
        found, until = bytearray(), time.monotonic() + seconds
        while not self.ended and len(found) < most:
            piece = await self.piece(until - time.monotonic())
            if piece is None:
                break
            found += piece
        return bytes(found)

    async def disconnected(self) -> None:
        """Return when the client has gone. Called after the body's end."""
        while not self.gone:
            if self._next is None:
                self._next = asyncio.ensure_future(self._receive())
            message = await asyncio.shield(self._next)
            self._next = None
            self.gone = message["type"] != "http.request"


class BodyStream(io.RawIOBase):
    """The body for a thread that reads it as `wsgi.input`: what came already, and then piece by piece.

    SlowBody when nothing came for so many seconds, ClientDisconnected when nothing will.
    """

    def __init__(self, beginning: bytes, incoming: Incoming, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._buffer = beginning
        self._incoming, self._loop, self._seconds = incoming, loop, seconds

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        if not self._buffer:
            self._buffer = self._fetch()
        count = min(len(into), len(self._buffer))
        into[:count] = self._buffer[:count]
        self._buffer = self._buffer[count:]
        return count

    def _fetch(self) -> bytes:
        piece = asyncio.run_coroutine_threadsafe(self._incoming.piece(self._seconds), self._loop).result()
        if piece is None:
            raise SlowBody(f"nothing of the body came for {self._seconds:g} seconds")
        return piece
