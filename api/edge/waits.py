"""Requests that wait for the end of a job or a batch, without a thread: PostgreSQL's notification wakes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from api.edge.body import Incoming
from api.edge.reply import Reply
from api.http.handover import Wait
from api.http.limits.wait_slots import WaitSlots
from api.http.responses import Answer
from shared.db.listen_notify import Listener

#: How often one who waits looks by himself: seldom, while notifications are heard.
HEARING_SECONDS, DEAF_SECONDS = 30.0, 3.0
#: Looks at what is awaited, in a thread.
Look = Callable[[], Awaitable[Answer]]


class Waits:
    """Those of one process, for one event loop."""

    def __init__(self, listener: Listener, slots: WaitSlots) -> None:
        self._listener, self._slots = listener, slots

    async def outcome(self, wait: Wait, first: Reply, look: Look, incoming: Incoming) -> Reply | None:
        """Return the answer after the wait: `first` without a slot, None when the client has gone."""
        with self._slots.slot(wait.tenant_id) as granted:
            if not granted:
                return first
            gone = asyncio.ensure_future(incoming.disconnected())
            try:
                answer = await self._until_terminal(wait, look, gone)
            finally:
                gone.cancel()
        return None if answer is None else _with_answer(first, answer)

    async def _until_terminal(self, wait: Wait, look: Look, gone: asyncio.Future[None]) -> Answer | None:
        until, woken, loop = time.monotonic() + wait.seconds, asyncio.Event(), asyncio.get_running_loop()
        with self._listener.calling(wait.awaited, lambda: loop.call_soon_threadsafe(woken.set)):
            # What ended before anybody listened is seen by this look, or by the one after the listener has begun.
            while not (answer := await look()).terminal and (left := until - time.monotonic()) > 0:
                own = HEARING_SECONDS if self._listener.hears else DEAF_SECONDS
                hint = asyncio.ensure_future(woken.wait())
                await asyncio.wait((hint, gone), timeout=min(left, own), return_when=asyncio.FIRST_COMPLETED)
                hint.cancel()
                woken.clear()
                if gone.done():
                    return None
        return answer


def _with_answer(first: Reply, answer: Answer) -> Reply:
    """Return the reply with what there is now instead of what there was."""
    if f'"{answer.etag}"' in dict(first.headers).get("ETag", ""):
        return first
    replaced = {"etag", "content-type", "content-length"} | ({"retry-after"} if answer.terminal else set())
    headers = [(name, value) for name, value in first.headers if name.lower() not in replaced]
    headers += [
        ("ETag", f'"{answer.etag}"'),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(answer.body))),
    ]
    status = 200 if answer.terminal or first.status == 304 else first.status
    return Reply(status, headers, answer.body)
