"""How a batch comes along, for the person who waits: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from client.archive import Archive
from client.batch_calls import Watch
from client.batch_models import Batch
from console.terminal import duration, note, stderr

LINE_SECONDS = 10.0
#: The server says something every ten seconds, if only that it is still there.
SILENCE_SECONDS = 15.0
LOOK_SECONDS = 0.5


class Meter(Watch):
    """Files, bytes per second, answers and the time that is left; without an archive, only the answers.

    It writes to standard error, for standard output may be a file of results. While the server is silent, it says so.
    """

    def __init__(self, archive: Archive | None = None, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._console = stderr()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=max(5, min(40, self._console.width - 50))),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._archive = archive
        self._sending: TaskID | None = None
        self._answering: TaskID | None = None
        self._waiting: TaskID | None = None
        self._lined = self._heard = time.monotonic()
        self._silence_seconds = silence_seconds
        self._over = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="meter", daemon=True)
        self.items = 0

    def __enter__(self) -> Self:
        self._bars.start()
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._listener.join()
        self._bars.stop()
        if not self._console.is_terminal:
            self._line()

    def begin(self, item: int) -> None:
        self.heard()
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
        self.heard()
        if self._archive is None or self._sending is None:
            return
        self.items = items
        task = self._bars.tasks[self._bars.task_ids.index(self._sending)]
        rate = (task.completed + size) / max(task.elapsed or 0.0, 1e-3) / 1e6
        told = f"{items:,} of {len(self._archive):,} files, {rate:.1f} MB/s"
        self._bars.update(self._sending, advance=size, told=told)
        self._now_and_then()

    def seen(self, batch: Batch) -> None:
        self.heard()
        counts = batch.counts
        # Until all of it is in, the server cannot know how much is coming.
        coming = len(self._archive) if self._archive is not None and batch.received_at is None else 0
        total = max(counts.total, coming)
        if self._answering is None:
            self._answering = self._bars.add_task("Answering", total=total, told="")
        told = f"{counts.done:,} of {total:,} done, {counts.unanswered:,} unanswered"
        self._bars.update(self._answering, total=total, completed=counts.done, told=told)
        self._now_and_then()

    def heard(self) -> None:
        self._heard = time.monotonic()

    def say(self, text: str) -> None:
        """Print a sentence beside the bars."""
        note(text, self._console)

    def _listen(self) -> None:
        """In a thread of its own, for the other one is what waits."""
        told = self._heard
        while not self._over.wait(LOOK_SECONDS):
            silent = time.monotonic() - self._heard
            if silent < self._silence_seconds:
                self._show_silence(None)
                continue
            text = f"{duration(silent, exact=True)} without a word"
            self._show_silence(text)
            if not self._console.is_terminal and time.monotonic() - max(told, self._heard) >= self._silence_seconds:
                told = time.monotonic()
                self._console.print(f"waiting for the server: {text}")

    def _show_silence(self, text: str | None) -> None:
        if text is None and self._waiting is not None:
            self._bars.remove_task(self._waiting)
            self._waiting = None
        elif text is not None and self._waiting is None:
            self._waiting = self._bars.add_task("Waiting for the server", total=None, told=text)
        elif text is not None and self._waiting is not None:
            self._bars.update(self._waiting, told=text)

    def _now_and_then(self) -> None:
        if not self._console.is_terminal and time.monotonic() - self._lined >= LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        self._lined = time.monotonic()
        tasks = [task for task in self._bars.tasks if task.id != self._waiting]
        told = [f"{task.description.lower()}: {task.fields['told']}" for task in tasks]
        left = max((task.time_remaining or 0.0 for task in tasks), default=0.0)
        if told:
            self._console.print("; ".join(told) + (f"; about {duration(left)} left" if left >= 1 else ""))
