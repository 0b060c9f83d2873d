"""A batch that comes in as a stream: read by the request, stored by some threads, written in its order by one more.

    read (the request) -> take in (some threads, a group each) -> write (one thread, a chunk of items a transaction)

The queue between them is short, so a client that is faster than the store waits, and memory stays flat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Generic, TypeVar

from flask import request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.batches.items import ReceivedItem
from api.batches.receiver import BatchReceiver
from shared.errors import ArchiveRefused, BadRequest, PayloadTooLarge, ThoraqError
from shared.storage import Storage

#: Small files are stored together, as many as the store likes best; of large ones, fewer.
GROUP_BYTES = 1024 * 1024
#: Groups that are stored, or wait for it.
AHEAD = 8
# What is written early can run early: the first items at once, while nothing runs; after them a short wait makes a fast
# sender a transaction of dozens.
CHUNK_ITEMS, CHUNK_SECONDS = 256, 0.05
PROGRESS_SECONDS = 5.0
PIECE_BYTES = 256 * 1024

Item = TypeVar("Item")
#: Makes of some items, in their order, what is to be written of them: nothing of one that is in already.
TakeIn = Callable[[list[Item]], list[ReceivedItem]]


class Intake(Generic[Item]):
    """Takes items in their order; `put` waits while too many are on their way, and raises what stopped them."""

    def __init__(self, receiver: BatchReceiver, storage: Storage, take_in: TakeIn[Item]) -> None:
        self._receiver = receiver
        self._take_in, self._group_items = take_in, storage.group
        self._pool = ThreadPoolExecutor(storage.writers, "store")
        self._group: list[Item] = []
        self._group_bytes = 0
        self._queue: Queue[Future[list[ReceivedItem]] | None] = Queue(AHEAD)
        self._failure: Exception | None = None
        self._last_came = False
        self._refused = threading.Event()
        self._writer = threading.Thread(target=self._write, name="write", daemon=True)
        self._writer.start()
        self._bytes = self._bytes_noted = 0
        self._noted_at = time.monotonic()

    def pieces(self, most: int) -> Iterator[bytes]:
        """Yield the request's body; PayloadTooLarge beyond `most` bytes, BadRequest when it ends too early."""
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

    def put(self, item: Item, size: int = 0) -> None:
        """Take the next item; `size`: bytes that it stores."""
        self._group.append(item)
        self._group_bytes += size
        if len(self._group) >= self._group_items or self._group_bytes >= GROUP_BYTES:
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
        # Also when the writing has stopped: the items have files to close, and the writer drops what comes of them.
        if self._group:
            self._queue.put(self._pool.submit(self._take_in, self._group))
            self._group, self._group_bytes = [], 0

    def check(self) -> None:
        """Raise what stopped the writing, if something did."""
        if self._failure is not None:
            raise self._failure

    def _write(self) -> None:
        try:
            for chunk in self._chunks():
                if chunk:
                    (self._receiver.discard if self._refused.is_set() else self._receiver.add)(chunk)
        except Exception as error:  # noqa: BLE001 - the request raises it
            self._failure = error
            self._drop_rest()

    def _chunks(self) -> Iterator[list[ReceivedItem]]:
        """Items in their order, a full chunk at a time, or those that have waited long enough."""
        chunk: list[ReceivedItem] = []
        due = wait = 0.0
        while True:
            try:
                future = self._queue.get(timeout=max(due - time.monotonic(), 0) if chunk else PROGRESS_SECONDS)
            except Empty:
                self._note_progress()
            else:
                if future is None:
                    self._last_came = True
                    break
                if error := future.exception():
                    yield chunk  # what came before it is in
                    raise error
                due = due if chunk else time.monotonic() + wait
                chunk += future.result()
            if len(chunk) >= CHUNK_ITEMS or (chunk and time.monotonic() >= due):
                yield chunk
                chunk, wait = [], CHUNK_SECONDS
        yield chunk

    def _note_progress(self) -> None:
        if self._bytes > self._bytes_noted and time.monotonic() - self._noted_at >= PROGRESS_SECONDS:
            self._bytes_noted, self._noted_at = self._bytes, time.monotonic()
            self._receiver.progress()

    def _drop_rest(self) -> None:
        # Nothing comes any more if it was the last chunk that could not be written.
        while not self._last_came and (future := self._queue.get()) is not None:
            if future.exception() is None:  # the first one is raised already
                self._receiver.discard(future.result())


@contextmanager
def taking_in(receiver: BatchReceiver, storage: Storage, take_in: TakeIn[Item]) -> Iterator[Intake[Item]]:
    """Run an intake; after it all that came is written, and what stopped it is raised."""
    intake = Intake(receiver, storage, take_in)
    try:
        try:
            yield intake
        except ArchiveRefused:
            intake.refuse()
            raise
        finally:
            intake.end()
        intake.check()
        receiver.finish()
    except ThoraqError as error:
        receiver.break_off(error)
        raise
