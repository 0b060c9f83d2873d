"""A TCP proxy that fails as networks do: it delays, resets, refuses, swallows, cuts off, and stops at a given word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from standalone.services import HOST, free_port

PIECE_BYTES = 64 * 1024
#: SO_LINGER on, for 0 s: closing sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


@dataclass
class Trap:
    """Waits for a connection that asks for all of `words`, one after the other, and then kills it (`before`: the piece
    with the last word does not go through) or keeps its answers back. Until all is mended, it does not hear either that
    the answering end hung up. Words that two pieces share are not seen.
    """

    words: Sequence[bytes]
    before: bool
    #: set when it has happened
    caught: threading.Event


@dataclass(eq=False)
class Line:
    """One connection, as its two writers. It stays open when it is dead, and loses all that is sent along it, or mute,
    and loses the answers.
    """

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead: bool = False
    mute: bool = False
    #: words of the trap that it has asked for
    words: int = 0
    #: bytes of answers that went through
    answered: int = 0

    def close(self, *, reset: bool = False) -> None:
        for writer in (self.client, self.server):
            if reset:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            writer.close()


class Proxy:
    """From `port` of `host` to `target` on loopback, in a thread of its own. Its methods are for any thread.

    What is broken stays broken until `mend`; `reset` and `half_open` happen at once, to the connections there are.
    """

    def __init__(self, name: str, target: int, host: str = HOST) -> None:
        self.name, self.target, self.host, self.port = name, target, host, free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{name}", daemon=True)
        self._server: asyncio.Server | None = None
        self._lines: set[Line] = set()
        self._open, self._untrapped = asyncio.Event(), asyncio.Event()
        self._delay, self._most, self._trap = 0.0, 0, Trap((), before=False, caught=threading.Event())

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.refuse()
        self._do(_end_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mend(self) -> None:
        """Listen, and let everything through; what was held back goes on, but not along dead connections."""
        self._delay, self._most, self._trap = 0.0, 0, Trap((), before=False, caught=threading.Event())
        self._do(self._listen())

    def delay(self, seconds: float) -> None:
        """Every piece comes so much later."""
        self._delay = seconds

    def black_hole(self) -> None:
        """Connections are taken, and nothing goes either way."""
        self._call(self._open.clear)

    def half_open(self) -> None:
        """Whatever goes along the connections there are is lost, for good, and neither end is told; new ones work."""
        self._call(self._kill)

    def reset(self) -> None:
        """RST to both ends of the connections there are; new ones work."""
        self._call(self._reset)

    def refuse(self) -> None:
        """Nobody listens, and the connections there are end with RST."""
        self._do(self._refuse())

    def cut(self, most: int) -> None:
        """A connection ends, as if all were well, when so many bytes of answers went along it."""
        self._most = most

    def trap(self, *words: bytes, before: bool) -> threading.Event:
        """Set a `Trap`; the event that says when it has caught a connection."""
        self._call(self._untrapped.clear)  # first: whoever it catches may hang up at once
        self._trap = Trap(words, before, threading.Event())
        return self._trap.caught

    def _call(self, act: Callable[[], None]) -> None:
        async def calling() -> None:
            act()

        self._do(calling())

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(10)

    async def _listen(self) -> None:
        self._open.set()
        self._untrapped.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)

    async def _refuse(self) -> None:
        self._open.set()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    def _kill(self) -> None:
        for line in self._lines:
            line.dead = True

    def _reset(self) -> None:
        for line in list(self._lines):
            line.close(reset=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            return
        line = Line(writer, server)
        self._lines.add(line)
        ways = [asyncio.create_task(self._ask(line, reader)), asyncio.create_task(self._answer(line, answers))]
        with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        self._lines.discard(line)
        line.close()

    async def _ask(self, line: Line, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                trap = self._trap
                caught = self._is_caught(line, piece, trap)
                if caught and trap.before:
                    line.dead = True
                    trap.caught.set()
                await self._pass()
                if line.dead:
                    continue
                line.mute = line.mute or caught
                await _write(line.server, piece)
                if caught:
                    trap.caught.set()

    async def _answer(self, line: Line, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self._pass()
                if line.dead or line.mute:
                    continue
                line.answered += len(piece)
                if self._most and line.answered >= self._most:
                    await _write(line.client, piece[: len(piece) - (line.answered - self._most)])
                    return
                await _write(line.client, piece)
        if line.dead or line.mute:
            # Whoever answers hangs up, and that is an answer too: who is trapped must not hear of it.
            await self._untrapped.wait()

    @staticmethod
    def _is_caught(line: Line, piece: bytes, trap: Trap) -> bool:
        said = line.words
        while line.words < len(trap.words) and trap.words[line.words] in piece:
            line.words += 1
        return said < line.words == len(trap.words)

    async def _pass(self) -> None:
        """Returns when a piece may go on."""
        await self._open.wait()
        if self._delay:
            await asyncio.sleep(self._delay)


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _write(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(piece)
    await writer.drain()
