"""What the WSGI application answers, on its way from a thread to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Headers = list[tuple[str, str]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: An answer that is longer is sent while it is made.
WHOLE_BYTES = 1_000_000


@dataclass(frozen=True)
class Reply:
    """An answer that is complete."""

    status: int
    headers: Headers
    body: bytes

    async def send(self, send: Send) -> None:
        """Send it."""
        await self.begin(send).send(send)

    def begin(self, send: Send) -> Sent:
        """Send it as far as that needs no event loop; with granian that is all of it, from any thread."""
        body = {"type": "http.response.body", "body": self.body, "more_body": False}
        return Sent((send(_start(self.status, self.headers)), send(body)))


@dataclass(frozen=True)
class Sent:
    """An answer that has been handed to the server."""

    passed: tuple[Awaitable[None], ...]

    async def send(self, _send: Send) -> None:
        """Return when the server has it."""
        for one in self.passed:
            await one


class Sender:
    """Sends from a thread what is made there, as fast as the client takes it."""

    def __init__(
        self,
        send: Send,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[], bool],
        watch: Callable[[], None],
        seconds: float,
    ) -> None:
        self._send, self._loop, self._seconds = send, loop, seconds
        self._gone, self._watch = gone, watch

    def begin(self, reply: Reply) -> Sent:
        """Send an answer that is complete."""
        return reply.begin(self._send)

    def stream(self, status: int, headers: Headers, pieces: Iterator[bytes]) -> None:
        """Send all pieces, until the client has gone or takes nothing for too long."""
        self._loop.call_soon_threadsafe(self._watch)
        self._pass(_start(status, headers))
        for piece in pieces:
            if self._gone():
                return
            self._pass({"type": "http.response.body", "body": piece, "more_body": True})
        self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    def _pass(self, message: dict[str, Any]) -> None:
        async def passed() -> None:
            async with asyncio.timeout(self._seconds):
                await self._send(message)

        asyncio.run_coroutine_threadsafe(passed(), self._loop).result()


def call(
    application: Callable[..., Iterable[bytes]], environ: dict[str, Any], sender: Sender, is_last: Callable[[], bool]
) -> Reply | Sent | None:
    """Call the WSGI application, and send its answer if that is the last word; else return it.

    None when it has been sent while it was made, as it is long or a stream.
    """
    begun: list[Any] = []

    def start_response(status: str, headers: Headers, _exc_info: object = None) -> None:
        begun[:] = [int(status[:3]), headers]

    answer = application(environ, start_response)
    try:
        pieces = iter(answer)
        held, length = [], 0
        for piece in pieces:
            held.append(piece)
            length += len(piece)
            if length > WHOLE_BYTES or _is_live(begun[1]):
                sender.stream(begun[0], begun[1], _rest(held, pieces))
                return None
        reply = Reply(begun[0], begun[1], b"".join(held))
        # Before the event loop is woken, which has to wait for the interpreter's lock.
        return sender.begin(reply) if is_last() else reply
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()


def _rest(held: list[bytes], pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield b"".join(held)
    yield from pieces


def _is_live(headers: Headers) -> bool:
    return any(name.lower() == "content-type" and value.startswith("text/event-stream") for name, value in headers)


def _start(status: int, headers: Headers) -> dict[str, Any]:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": raw}
