"""A batch that comes in as a stream: read by the request, stored by some threads, written in its order by one more.

    read (the request) -> take in (some threads) -> write (one thread, a chunk of items a transaction)

The queue between them is short, so a client that is faster than the store waits, and memory stays flat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, Queue

from flask import request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.batch_items import Sent
from api.batch_turn import Turn
from shared.errors import ArchiveRefused, BadRequest, PayloadTooLarge, ThoraqError

#: Small files are stored a few by one thread: handing one over would cost as much as storing it.
GROUP_ITEMS, GROUP_BYTES = 8, 256 * 1024
AHEAD = 16
# What is written early can run early: a short wait still makes a fast sender a transaction of dozens.
CHUNK_ITEMS, CHUNK_SECONDS = 128, 0.05
PROGRESS_SECONDS = 5.0
PIECE_BYTES = 256 * 1024

Task = Callable[[], Sent | None]


@dataclass(frozen=True)
class Stored:
    """What some tasks gave, in their order; after an error, what the later ones gave is of no use."""

    sent: list[Sent]
    error: Exception | None
    unused: list[Sent]


class Intake:
    """Takes items in their order; `put` waits while too many are on their way, and raises what stopped them."""

    def __init__(self, turn: Turn, storers: int) -> None:
        self._turn = turn
        self._pool = ThreadPoolExecutor(storers, "store")
        self._group: list[Task] = []
        self._group_bytes = 0
        self._queue: Queue[Future[Stored] | None] = Queue(AHEAD)
        self._failure: Exception | None = None
        self._last_came = False
        self._refused = threading.Event()
        self._writer = threading.Thread(target=self._write, name="write", daemon=True)
        self._writer.start()
        self._bytes = self._bytes_noted = 0
        self._noted_at = time.monotonic()

    def pieces(self, most: int) -> Iterator[bytes]:
        """The request's body; PayloadTooLarge beyond `most` bytes, BadRequest when it ends too early."""
        request.max_content_length = most
        try:
            while piece := self._next_piece():
                self._bytes += len(piece)
                self.check()
                yield piece
        except RequestEntityTooLarge as error:
            raise PayloadTooLarge(f"at most {most} bytes in one request") from error
        except (ClientDisconnected, OSError) as error:
            raise BadRequest("the connection broke off") from error
        if self._bytes < (request.content_length or 0):
            raise BadRequest("the body ends too early")

    def _next_piece(self) -> bytes:
        # It may be long in coming: what came before must not wait for it.
        self._hand_over()
        return request.stream.read(PIECE_BYTES)

    def put(self, task: Task, size: int = 0) -> None:
        """The next item, made of what the task gives; None for one that is in already. `size`: bytes that it stores."""
        self._group.append(task)
        self._group_bytes += size
        if len(self._group) >= GROUP_ITEMS or self._group_bytes >= GROUP_BYTES:
            self._hand_over()
        self.check()

    def refuse(self) -> None:
        """Write nothing more: what is on its way is removed again."""
        self._refused.set()

    def end(self) -> None:
        """Wait until everything is written."""
        self._hand_over()
        self._queue.put(None)
        self._writer.join()
        self._pool.shutdown()

    def _hand_over(self) -> None:
        # Also when the writing has stopped: the tasks have files to close, and the writer drops what comes of them.
        if self._group:
            self._queue.put(self._pool.submit(_store, self._group))
            self._group, self._group_bytes = [], 0

    def check(self) -> None:
        """Raise what stopped the writing, if something did."""
        if self._failure is not None:
            raise self._failure

    def _write(self) -> None:
        try:
            for chunk in self._chunks():
                if chunk:
                    (self._turn.discard if self._refused.is_set() else self._turn.add)(chunk)
        except Exception as error:  # noqa: BLE001 - the request raises it
            self._failure = error
            self._drop_rest()

    def _chunks(self) -> Iterator[list[Sent]]:
        """Items in their order, a full chunk at a time, or those that have waited long enough."""
        chunk: list[Sent] = []
        due = 0.0
        while True:
            try:
                future = self._queue.get(timeout=max(due - time.monotonic(), 0) if chunk else PROGRESS_SECONDS)
            except Empty:
                self._note_progress()
            else:
                if future is None:
                    self._last_came = True
                    break
                stored = future.result()
                due = due if chunk else time.monotonic() + CHUNK_SECONDS
                chunk += stored.sent
                if stored.error is not None:
                    self._turn.discard(stored.unused)
                    yield chunk  # what came before it is in
                    raise stored.error
            if len(chunk) >= CHUNK_ITEMS or (chunk and time.monotonic() >= due):
                yield chunk
                chunk = []
        yield chunk

    def _note_progress(self) -> None:
        if self._bytes > self._bytes_noted and time.monotonic() - self._noted_at >= PROGRESS_SECONDS:
            self._bytes_noted, self._noted_at = self._bytes, time.monotonic()
            self._turn.progress()

    def _drop_rest(self) -> None:
        # Nothing comes any more if it was the last chunk that could not be written.
        while not self._last_came and (future := self._queue.get()) is not None:
            stored = future.result()
            self._turn.discard([*stored.sent, *stored.unused])


def _store(tasks: Sequence[Task]) -> Stored:
    """Run all of them, whatever becomes of one: each has a file to close."""
    stored = Stored([], None, [])
    for task in tasks:
        try:
            sent = task()
        except Exception as error:  # noqa: BLE001 - the writer raises the first one
            stored = stored if stored.error else replace(stored, error=error)
        else:
            kept = stored.unused if stored.error else stored.sent
            kept += [] if sent is None else [sent]
    return stored


@contextmanager
def taking_in(turn: Turn, storers: int) -> Iterator[Intake]:
    """An intake; after it all that came is written, and what stopped it is raised."""
    intake = Intake(turn, storers)
    try:
        try:
            yield intake
        except ArchiveRefused:
            intake.refuse()
            raise
        finally:
            intake.end()
        intake.check()
        turn.finish()
    except ThoraqError as error:
        turn.break_off(error)
        raise
