"""How a batch comes along, for the person who waits: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from client.archive import Archive
from client.batch_calls import Watch
from client.batch_models import Batch
from client.tables import stderr

LINE_SECONDS = 10.0


class Meter(Watch):
    """Files, bytes per second, answers and the time that is left; without an archive, only the answers.

    It writes to standard error, for standard output may be a file of results.
    """

    def __init__(self, archive: Archive | None = None) -> None:
        self._console = stderr()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._archive = archive
        self._sending: TaskID | None = None
        self._answering: TaskID | None = None
        self._lined = time.monotonic()
        self.items = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()
        if not self._console.is_terminal:
            self._line()

    def begin(self, item: int) -> None:
        if self._archive is None:
            return
        if item and self._sending is None:
            self._console.print(f"{item:,} of {len(self._archive):,} files are in already; sending the rest.")
        if self._sending is not None:
            self._bars.remove_task(self._sending)
        # A task of its own each time: what was sent earlier says nothing about the speed now.
        size = self._archive.offset(len(self._archive)) - self._archive.offset(item)
        self._sending = self._bars.add_task("Sending", total=size, told="")
        self.sent(item, 0)

    def sent(self, items: int, size: int) -> None:
        if self._archive is None or self._sending is None:
            return
        self.items = items
        task = self._bars.tasks[self._bars.task_ids.index(self._sending)]
        rate = (task.completed + size) / max(task.elapsed or 0.0, 1e-3) / 1e6
        told = f"{items:,} of {len(self._archive):,} files, {rate:.1f} MB/s"
        self._bars.update(self._sending, advance=size, told=told)
        self._now_and_then()

    def seen(self, batch: Batch) -> None:
        counts = batch.counts
        # Until all of it is in, the server cannot know how much is coming.
        coming = len(self._archive) if self._archive is not None and batch.received_at is None else 0
        total = max(counts.total, coming)
        if self._answering is None:
            self._answering = self._bars.add_task("Answering", total=total, told="")
        told = f"{counts.done:,} of {total:,} done, {counts.unanswered:,} failed"
        self._bars.update(self._answering, total=total, completed=counts.done, told=told)
        self._now_and_then()

    def say(self, text: str) -> None:
        """A sentence beside the bars."""
        self._console.print(text)

    def _now_and_then(self) -> None:
        if not self._console.is_terminal and time.monotonic() - self._lined >= LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        self._lined = time.monotonic()
        told = [f"{task.description.lower()}: {task.fields['told']}" for task in self._bars.tasks]
        left = max((task.time_remaining or 0.0 for task in self._bars.tasks), default=0.0)
        if told:
            self._console.print("; ".join(told) + (f"; about {left:.0f} s left" if left >= 1 else ""))
