"""The client's methods for batches: send, watch, fetch."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import httpx
from httpx_sse import EventSource

from client.archive import Archive, Piece
from client.batch_models import Batch, BatchError, BatchResult
from client.calls import POLL_SECONDS, Calls, given, id_of, route
from client.errors import ApiError, Unreachable
from client.models import Classifier, Grouping, Modality, Priority
from client.transport import TRY_AGAIN
from client.uploads import closing_parts

# Between looks at a batch that is being sent, at least; and so many times as long as the last look took.
LOOK_SECONDS, LOOK_TIMES = 2.0, 20
#: The server has the whole body, and may have much to write before it says so.
ANSWER_SECONDS = 300.0
TOO_MANY = 429
IN_PROGRESS = "idempotency-in-progress"
MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
Format = Literal["ndjson", "csv"]
Table = Literal["results", "errors"]


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is to be run; `expires_in` is in seconds, and what has not run by then is not run.

    `group_by` says which files are one study. `force` runs even what the server has answered before.
    """

    classifier: Classifier
    modality: Modality | None = None
    priority: Priority = "bulk"
    group_by: Grouping = "file"
    external_id: str | None = None
    expires_in: float | None = None
    force: bool = False

    def query(self) -> dict[str, Any]:
        """As the server takes them."""
        return given(**asdict(self) | {"force": True if self.force else None})


class Watch:
    """Is told how a batch comes along; this one looks away."""

    def begin(self, item: int) -> None:
        """Note that sending begins, or goes on, at this item."""

    def sent(self, items: int, size: int) -> None:
        """`size` more bytes are sent, and `items` items altogether."""

    def seen(self, batch: Batch) -> None:
        """Note what the server has answered."""

    def heard(self) -> None:
        """Note that the server has said something, if only that it is still there."""


class BatchCalls(Calls):
    """What a tenant does with batches."""

    def submit_batch(
        self,
        files: Sequence[Path],
        *,
        classifier: Classifier,
        modality: Modality | None = None,
        priority: Priority = "bulk",
        external_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Send many studies of one file each, in one small request; `send_batch` takes thousands."""
        fields = given(classifier=classifier, modality=modality, priority=priority, external_id=external_id)
        with closing_parts(files) as sent:
            return Batch.model_validate(self._post("/v1/batches", idempotency_key, data=fields, files=sent).json())

    def send_batch(
        self, archive: Archive, options: BatchOptions, *, idempotency_key: str | None = None, watch: Watch | None = None
    ) -> Batch:
        """Send an archive, piece by piece, and return the batch when the server has all of it.

        What an earlier call with the same key, archive and options has sent is not sent again. An upload that breaks
        is taken up where it broke; as long as it comes further each time, it is tried on, and as long as the server
        says that too much is waiting there. OSError for a file that cannot be read any more.
        """
        key, watch = idempotency_key or str(uuid.uuid4()), watch or Watch()
        attempt, reached = 1, -1
        while True:
            batch = self.find_batch(key)
            if batch is not None:
                watch.seen(batch)
                if batch.received_at is not None or batch.done:
                    return batch
            first = batch.next_item if batch else 0
            attempt, reached = (1, first) if first > reached else (attempt, reached)
            try:
                return self._send_from(first, archive, options, key, watch)
            except (ApiError, Unreachable) as error:
                if not _may_pass(error):
                    raise
                if isinstance(error, ApiError) and error.status == TOO_MANY:
                    attempt = 1  # nothing is wrong, and the server says when to come back
                delay = self._patience(attempt, error)
            self._retry.sleep(delay)
            attempt += 1

    def find_batch(self, idempotency_key: str) -> Batch | None:
        """Find the batch that was begun with this key, if there is one."""
        query = {"idempotency_key": idempotency_key, "limit": 1}
        page = self._transport.send("GET", "/v1/batches", params=query).json()
        return next(map(Batch.model_validate, page["data"]), None)

    def batch(self, batch_id: str) -> Batch:
        """Return a batch as it is now."""
        return Batch.model_validate(self._transport.send("GET", route("batches", batch_id)).json())

    def batches(self, *, page_size: int = 50) -> Iterator[Batch]:
        """Batches, newest first; pages of `page_size` (1 to 200) are fetched as the iteration reaches them."""
        return map(Batch.model_validate, self._pages("/v1/batches", {"limit": page_size}))

    def wait_batch(self, batch: str | Batch, timeout: float | None = None) -> Batch:
        """Return the batch once all of its jobs have ended. WaitTimeout after `timeout` seconds."""
        return self._follow(route("batches", id_of(batch)), Batch, timeout)

    def cancel_batch(self, batch_id: str) -> Batch:
        """Withdraw what has not ended; answers that are there stay."""
        return Batch.model_validate(self._transport.send("POST", route("batches", batch_id, "cancel")).json())

    def batch_events(self, batch: str | Batch, *, watch: Watch | None = None) -> Iterator[Batch]:
        """Yield the batch whenever its counts change, the last time when it has ended; connects again by itself.

        `watch` is told of every sign of life of the server.
        """
        attempt, watch = 0, watch or Watch()
        while True:
            heard = False
            try:
                for view in self._events(id_of(batch), watch):
                    heard = True
                    yield view
                    if view.done:
                        return
                # The server ends each answer after a while; one without a word is not asked for again at once.
                delay = 0.0 if heard else POLL_SECONDS
            except Unreachable as error:
                attempt = 1 if heard else attempt + 1
                delay = self._patience(attempt, error)
            self._retry.sleep(delay)

    def batch_results(self, batch: str | Batch) -> Iterator[BatchResult]:
        """Every item that became a job, in their order, as they are now; also while the batch runs."""
        return map(BatchResult.model_validate_json, self._lines(id_of(batch), "results"))

    def batch_errors(self, batch: str | Batch) -> Iterator[BatchError]:
        """Every item that ended without an answer, in their order; also while the batch runs."""
        return map(BatchError.model_validate_json, self._lines(id_of(batch), "errors"))

    def save_batch(
        self, batch: str | Batch, table: Table, path: Path, form: Format, *, watch: Watch | None = None
    ) -> None:
        """Write the results or errors to a file, which is there only when it is whole. OSError if it cannot be."""
        unfinished = unfinished_name(path)
        try:
            with unfinished.open("wb") as file:
                self._download(id_of(batch), table, form, file, watch or Watch())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _send_from(self, first: int, archive: Archive, options: BatchOptions, key: str, watch: Watch) -> Batch:
        watch.begin(first)
        with closing(self._told(archive.pieces(first), key, watch)) as body:
            response = self._transport.once(
                "POST",
                "/v1/batches",
                params=options.query() | {"first_item": first},
                headers={"Idempotency-Key": key, "Content-Type": "application/zip"},
                content=body,
                timeout=httpx.Timeout(self._transport.timeout, read=ANSWER_SECONDS),
            )
        return Batch.model_validate(response.json())

    def _told(self, pieces: Iterator[Piece], key: str, watch: Watch) -> Generator[bytes]:
        clock = self._retry.clock
        due = clock() + LOOK_SECONDS
        for piece in pieces:
            yield piece.data
            watch.sent(piece.items, len(piece.data))
            began = clock()
            if began >= due:
                # Between two pieces: jobs run while the rest is sent, and somebody wants to see it.
                batch = self.find_batch(key)
                if batch is not None:
                    watch.seen(batch)
                # The sending stands still meanwhile; a slow server is asked more seldom.
                ended = clock()
                due = ended + max(LOOK_SECONDS, LOOK_TIMES * (ended - began))

    def _patience(self, attempt: int, error: ApiError | Unreachable) -> float:
        """Seconds before the next attempt, after `attempt` ended with this error; the error when it was the last."""
        delay = self._retry.delay(attempt, error.retry_after if isinstance(error, ApiError) else 0.0)
        if delay is None:
            raise error
        return delay

    def _events(self, batch_id: str, watch: Watch) -> Iterator[Batch]:
        path = route("batches", batch_id, "events")
        with self._transport.stream("GET", path, headers={"Accept": "text/event-stream"}) as response:
            for event in EventSource(cast(httpx.Response, _Audible(response, watch))).iter_sse():
                if event.event in {"progress", "end"}:
                    yield Batch.model_validate_json(event.data)

    def _lines(self, batch_id: str, table: Table) -> Iterator[str]:
        with self._open(batch_id, table, "ndjson") as response:
            yield from response.iter_lines()

    def _download(self, batch_id: str, table: Table, form: Format, file: BinaryIO, watch: Watch) -> None:
        attempt = 1
        while True:
            try:
                with self._open(batch_id, table, form) as response:
                    for data in response.iter_bytes():
                        file.write(data)
                        watch.heard()
                    return
            except Unreachable as error:
                delay = self._patience(attempt, error)
            file.seek(0)
            file.truncate()
            self._retry.sleep(delay)
            attempt += 1

    def _open(self, batch_id: str, table: Table, form: Format) -> AbstractContextManager[httpx.Response]:
        path = route("batches", batch_id, table)
        return self._transport.stream("GET", path, headers={"Accept": MEDIA_TYPES[form]})


def unfinished_name(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f".{path.name}.part")


class _Audible:
    """A response of which every piece is heard: httpx-sse passes over the comments that say "still here"."""

    def __init__(self, response: httpx.Response, watch: Watch) -> None:
        self.headers = response.headers
        self._response = response
        self._watch = watch

    def iter_text(self) -> Iterator[str]:
        for text in self._response.iter_text():
            self._watch.heard()
            yield text


def _may_pass(error: ApiError | Unreachable) -> bool:
    """Whether the same may succeed later. In progress: the server has not noticed yet that the connection broke."""
    return isinstance(error, Unreachable) or error.status in TRY_AGAIN or error.type == IN_PROGRESS
