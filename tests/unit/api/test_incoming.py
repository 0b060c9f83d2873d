"""A request's body as it comes: with deadlines, whole or in pieces, and never taken for complete when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from werkzeug.exceptions import ClientDisconnected

from api.edge.body import BodyStream, Incoming
from shared.errors import SlowBody

GONE = {"type": "http.disconnect"}
#: Longer than anything here takes, and no time at all.
PATIENT, AT_ONCE = 60.0, 0.0


def piece(body: bytes, *, more: bool = True) -> dict[str, Any]:
    """What ASGI says of a part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


def incoming(*messages: dict[str, Any]) -> tuple[Incoming, asyncio.Queue[dict[str, Any]]]:
    """A client that sends these, and then what is put into the queue."""
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for message in messages:
        queue.put_nowait(message)
    return Incoming(queue.get), queue


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in an event loop."""
    asyncio.run(asyncio.wait_for(test(), PATIENT))


def test_a_body_that_is_there_is_had_whole() -> None:
    async def test() -> None:
        client, _ = incoming(piece(b"ab"), piece(b""), piece(b"cd", more=False))
        assert await client.beginning(100, PATIENT) == b"abcd"
        assert client.ended

    in_loop(test)


def test_of_a_long_body_no_more_is_held_than_asked_for_and_a_piece() -> None:
    async def test() -> None:
        client, _ = incoming(piece(b"abc"), piece(b"def"), piece(b"g", more=False))
        assert await client.beginning(4, PATIENT) == b"abcdef"
        assert not client.ended

    in_loop(test)


def test_a_piece_that_comes_after_its_deadline_is_not_lost() -> None:
    async def test() -> None:
        client, queue = incoming()
        assert await client.piece(AT_ONCE) is None
        queue.put_nowait(piece(b"late", more=False))
        assert await client.piece(PATIENT) == b"late"
        assert await client.piece(PATIENT) == b""

    in_loop(test)


def test_a_body_that_breaks_off_is_not_taken_for_complete() -> None:
    async def test() -> None:
        client, _ = incoming(piece(b"ab"), GONE)
        with pytest.raises(ClientDisconnected):
            await client.beginning(100, PATIENT)
        assert client.gone

    in_loop(test)


def test_a_thread_reads_what_comes_and_gives_up_when_nothing_does() -> None:
    async def test() -> None:
        client, queue = incoming(piece(b"def"))
        loop = asyncio.get_running_loop()
        stream = BodyStream(b"abc", client, loop, AT_ONCE)
        patient = BodyStream(b"", client, loop, PATIENT)
        assert await asyncio.to_thread(stream.read, 2) == b"ab"
        assert await asyncio.to_thread(stream.read, 9) == b"c"
        assert await asyncio.to_thread(patient.read, 9) == b"def"
        with pytest.raises(SlowBody):
            await asyncio.to_thread(stream.read, 9)
        queue.put_nowait(piece(b"", more=False))
        assert await asyncio.to_thread(patient.read, 9) == b""

    in_loop(test)


def test_it_is_noticed_that_a_client_has_gone() -> None:
    async def test() -> None:
        client, queue = incoming(piece(b"", more=False))
        assert await client.beginning(100, PATIENT) == b""
        watch = asyncio.ensure_future(client.disconnected())
        await asyncio.sleep(0)
        assert not watch.done()
        queue.put_nowait(GONE)
        await watch
        assert client.gone

    in_loop(test)
