"""Who gets a thread: each key so many, in turns of the keys, and none is lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from api.edge import lanes
from api.edge.lanes import Lanes
from shared.errors import Busy


async def hold(line: Lanes, key: str, order: list[str], go: asyncio.Event) -> None:
    """Hold a slot until `go`, and note when it was had."""
    async with line.slot(key):
        order.append(key)
        await go.wait()


async def settle() -> None:
    """Let all tasks come to where they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_key_leaves_slots_to_others_and_all_are_had_in_the_end() -> None:
    async def run() -> None:
        line, order, go = Lanes(4, 2), list[str](), asyncio.Event()
        tasks = [asyncio.create_task(hold(line, key, order, go)) for key in "aaaaaabb"]
        await settle()
        assert order == ["a", "a", "b", "b"]
        go.set()
        await asyncio.gather(*tasks)
        assert sorted(order) == sorted("aaaaaabb")

    asyncio.run(run())


def test_keys_that_wait_take_turns() -> None:
    async def run() -> None:
        line, order, go = Lanes(1, 1), list[str](), asyncio.Event()
        go.set()
        async with line.slot("c"):
            tasks = [asyncio.create_task(hold(line, key, order, go)) for key in "aaabb"]
            await settle()
        await asyncio.gather(*tasks)
        assert order == list("ababa")

    asyncio.run(run())


def test_a_request_that_is_cancelled_or_fails_keeps_no_slot() -> None:
    async def run() -> None:
        line, go = Lanes(1, 1), asyncio.Event()
        first = asyncio.create_task(hold(line, "a", [], go))
        second = asyncio.create_task(hold(line, "a", [], go))
        await settle()
        for task in (second, first):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        async with line.slot("b"):
            pass

    asyncio.run(run())


def test_what_waits_of_one_key_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_WAITING", 2)

    async def run() -> None:
        line, go = Lanes(1, 1), asyncio.Event()
        tasks = [asyncio.create_task(hold(line, "a", [], go)) for _ in range(3)]
        await settle()
        async with AsyncExitStack() as stack:
            with pytest.raises(Busy):
                await stack.enter_async_context(line.slot("a"))
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
