"""One request and its answer: who has a thread for it, when, and what happens while none is held."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from werkzeug.exceptions import ClientDisconnected

from api.edge.body import BEFORE_BYTES, BEFORE_SECONDS, BodyStream, Incoming
from api.edge.environ import has_body
from api.edge.lanes import Lanes
from api.edge.reply import Reply, Send, Sender, Sent, call
from api.edge.state import State
from api.http.handover import GONE, REFUSED, WAIT, Wait
from shared.errors import PayloadTooLarge, SlowBody, ThoraqError

Made = TypeVar("Made")
#: A body of somebody without a key: so long at most, and here within so many seconds.
STRANGER_BYTES, STRANGER_SECONDS = 64_000, 5.0
#: Answers that are long, or long in the making.
LONG = re.compile(r"/v1/batches/[^/]+/(events|results|errors)|/v1/studies/[^/]+/images/[^/]+/.+")
#: Asked by those who watch.
WATCHED = frozenset({"/readyz", "/metrics"})


class Exchange:
    """A request of one client, for one event loop."""

    def __init__(self, state: State, environ: dict[str, Any], incoming: Incoming, send: Send) -> None:
        self._state, self._environ, self._incoming, self._send = state, environ, incoming, send
        self._loop = asyncio.get_running_loop()
        self._wait = Wait()
        self._watching: asyncio.Future[None] | None = None
        environ[GONE], environ[WAIT] = self._is_gone, self._wait
        environ["wsgi.input"] = io.BytesIO()

    async def serve(self) -> None:
        """Answer it, unless its client goes."""
        try:
            reply = await self._reply()
            if reply is not None:
                await reply.send(self._send)
        except (ClientDisconnected, TimeoutError):
            return  # nobody is there to be answered
        finally:
            if self._watching is not None:
                self._watching.cancel()

    async def _reply(self) -> Reply | Sent | None:
        try:
            if self._environ["PATH_INFO"] in WATCHED:
                return await self._call_in(self._state.watching)
            lanes, key = await self._take_body()
            reply = await self._call(lanes, key)
            look = self._wait.look_at
            if look is None or not isinstance(reply, Reply):
                return reply
            return await self._state.waits.outcome(
                self._wait, reply, lambda: self._in_thread(lanes, key, look), self._incoming
            )
        except ThoraqError as error:
            self._environ[REFUSED], self._environ["wsgi.input"] = error, io.BytesIO()
            self._wait.look_at = None
            return await self._call_in(self._state.refusing)

    async def _take_body(self) -> tuple[Lanes, str]:
        """Have the body ready, as far as it comes soon; where the request's thread comes from, and for whom."""
        tenant, in_force = self._state.remembered(self._environ)
        address = f"address {self._state.address(self._environ)}"
        if has_body(self._environ):
            if not in_force:
                tenant = await self._in_thread(self._state.open, address, partial(self._state.authority, self._environ))
            if tenant is not None:
                await self._read(tenant)
            elif not self._environ["PATH_INFO"].startswith(("/v1/", "/uploads/")):
                await self._read_strangers(address)
        return (self._state.open, address) if tenant is None else (self._state.lanes, tenant)

    async def _read(self, tenant: str) -> None:
        async with self._state.bodies.slot(tenant):
            beginning = await self._incoming.beginning(BEFORE_BYTES, BEFORE_SECONDS)
        if self._incoming.ended:
            self._environ["wsgi.input"] = io.BytesIO(beginning)
        else:
            seconds = self._state.settings.body_seconds
            self._environ["wsgi.input"] = BodyStream(beginning, self._incoming, self._loop, seconds)

    async def _read_strangers(self, address: str) -> None:
        """Read a body of which the application will say whether there is a key in it: a sign-in."""
        if int(self._environ.get("CONTENT_LENGTH", 0)) > STRANGER_BYTES:
            raise PayloadTooLarge(f"without a key, at most {STRANGER_BYTES} bytes")
        async with self._state.bodies.slot(address):
            found = await self._incoming.beginning(STRANGER_BYTES + 1, STRANGER_SECONDS)
        if not self._incoming.ended:
            raise SlowBody(f"the body was not there within {STRANGER_SECONDS:g} seconds")
        self._environ["wsgi.input"] = io.BytesIO(found)

    async def _call(self, lanes: Lanes, key: str) -> Reply | Sent | None:
        if not isinstance(self._environ["wsgi.input"], BodyStream) and not LONG.fullmatch(self._environ["PATH_INFO"]):
            return await self._in_thread(lanes, key, self._calling())
        async with self._state.streams.slot(key):
            return await self._call_in(self._state.stream_threads)

    async def _call_in(self, threads: Executor) -> Reply | Sent | None:
        return await self._loop.run_in_executor(threads, self._calling())

    def _calling(self) -> Callable[[], Reply | Sent | None]:
        sender = Sender(self._send, self._loop, self._is_gone, self._watch, self._state.settings.body_seconds)
        return partial(call, self._state.app, self._environ, sender, lambda: self._wait.look_at is None)

    async def _in_thread(self, lanes: Lanes, key: str, do: Callable[[], Made]) -> Made:
        async with lanes.slot(key):
            return await self._loop.run_in_executor(self._state.threads, do)

    def _is_gone(self) -> bool:
        return self._incoming.gone

    def _watch(self) -> None:
        """Have an eye on the client from now on, unless it still sends."""
        if self._incoming.ended or not has_body(self._environ):
            self._watching = asyncio.ensure_future(self._incoming.disconnected())
