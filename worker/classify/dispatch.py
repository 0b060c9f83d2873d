"""A batch before the engine: what is shown to it at once, how that is halved, and what there is to say afterwards.

An engine that works on several looks side by side has a lane for each. Batches are not waited for one after the other:
a lane that is done with its part of one takes its part of the next, while the others are still at work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import structlog

from shared import metrics
from shared.db.tables import Classifier
from shared.errors import EngineOutOfMemory, ThoraqError
from worker.classify.load import Pixels, Study
from worker.classify.predictor import Ask, Reader, Reading, Refusal, Sight

log = structlog.get_logger(__name__)
#: An image and a classifier: what several jobs of a batch ask of it is read once.
Key = tuple[str, Classifier]
#: An error is what kept the engine from seeing the image.
Readings = dict[Key, Reading | Refusal | ThoraqError]


class Stopped(Exception):
    """The worker is to stop, and has not shown the engine everything yet."""


@dataclass(frozen=True)
class Asked:
    """Images that go through the engine at once, and what is asked about them."""

    keys: list[Key]
    asks: list[Ask]
    images: Pixels

    def halves(self) -> tuple[Asked, Asked]:
        """The same in two; there must be two images or more."""
        half = len(self.images) // 2
        return self._part(0, half), self._part(half, len(self.images))

    def _part(self, start: int, end: int) -> Asked:
        pairs = [(key, ask) for key, ask in zip(self.keys, self.asks, strict=True) if start <= ask.row < end]
        asks = [replace(ask, row=ask.row - start) for _, ask in pairs]
        return Asked([key for key, _ in pairs], asks, self.images[start:end])


@dataclass(frozen=True)
class Look:
    """What the engine has seen of the images that were asked about, or what kept it from that."""

    keys: list[Key]
    sight: Sight | ThoraqError
    #: seconds of time.perf_counter()
    ended: float

    def readings(self, *, heatmaps: bool) -> Readings:
        """What there is to say."""
        if isinstance(self.sight, ThoraqError):
            return dict.fromkeys(self.keys, self.sight)
        return dict(zip(self.keys, self.sight.readings(heatmaps=heatmaps), strict=True))


def split(studies: Sequence[Study], batch_size: int, reader: Reader) -> Iterator[Asked]:
    """All images of the studies, a lane's part of a batch at once (a study alone may have thousands of them).

    Those for the first batch are made here, and not when a lane is free: it would wait for the copy, and for the other
    threads' turns.
    """
    together = min(batch_size, reader.max_batch or batch_size)
    asked = _split(studies, max(together // reader.lanes, 1))
    return chain(list(islice(asked, reader.lanes)), asked)


def _split(studies: Sequence[Study], size: int) -> Iterator[Asked]:
    pixels = {name: image for study in studies for name, image in study.pixels.items()}
    wanted = {(name, study.claim.classifier): study.claim.modality for study in studies for name in study.pixels}
    names = list(pixels)
    for start in range(0, len(names), size):
        rows = {name: row for row, name in enumerate(names[start : start + size])}
        asks = {key: Ask(rows[key[0]], key[1], sent_as) for key, sent_as in wanted.items() if key[0] in rows}
        yield Asked(list(asks), list(asks.values()), np.stack([pixels[name] for name in rows]))


@dataclass(frozen=True)
class Seen:
    """What there is to say of all that was asked together, and the seconds that the engine had it."""

    readings: Readings
    seconds: float


@dataclass(eq=False)
class Lane:
    """A lane that is taken; `since`: seconds of time.monotonic() at which its present look began."""

    since: float


class Looker:
    """Shows images to the engine; `looked` is told after each look how many they were and how many seconds it took.

    The seconds are those of one lane among as many as were busy.
    """

    def __init__(self, *, heatmaps: bool, keep: int, looked: Callable[[int, float], None]) -> None:
        self._heatmaps, self._keep, self._looked = heatmaps, keep, looked
        self._threads = ThreadPoolExecutor(thread_name_prefix="look")
        self._taken: set[Lane] = set()
        self._change = threading.Condition()
        #: What ended a look and is no error of the engine's; whoever waits for a lane next is told.
        self.fault: BaseException | None = None

    @property
    def since(self) -> float | None:
        """Seconds of time.monotonic() at which the oldest look that is under way began."""
        with self._change:
            return min((lane.since for lane in self._taken), default=None)

    def wait_free(self, lanes: int) -> None:
        """Until one of so many lanes has nothing to do; raises `fault`: nothing more is to be shown then."""
        with self._change:
            self._change.wait_for(lambda: len(self._taken) < lanes)
            if self.fault is not None:
                raise self.fault

    def read(self, reader: Reader, asked: Iterator[Asked], stopping: threading.Event) -> Callable[[], Seen]:
        """Return as soon as the engine has all of it; what is returned waits for it, and says what it makes of it.

        Raises Stopped when `stopping` is set and there is more to see than jobs that were claimed together have: a
        large study takes minutes.
        """
        began = time.perf_counter()
        keep = self._keep * reader.lanes
        readings = Readings()
        coming: deque[Future[list[Look]]] = deque()
        for place, one in enumerate(asked):
            if place >= keep and stopping.is_set():
                raise Stopped
            # What a look leaves is large: of a study of thousands of images, only the last ones are kept for later.
            if len(coming) == keep:
                readings |= self._readings(coming.popleft().result())
            coming.append(self._begin(reader, one))

        def read() -> Seen:
            looks = [look for some in coming for look in some.result()]
            seconds = max((look.ended for look in looks), default=began) - began
            return Seen(readings | self._readings(looks), seconds)

        return read

    def _readings(self, looks: Sequence[Look]) -> Readings:
        return Readings((key, said) for look in looks for key, said in look.readings(heatmaps=self._heatmaps).items())

    def _begin(self, reader: Reader, asked: Asked) -> Future[list[Look]]:
        """Take a lane, once there is one."""
        with self._change:
            self.wait_free(reader.lanes)
            lane = Lane(time.monotonic())
            self._taken.add(lane)
        return self._threads.submit(self._occupy, lane, reader, asked)

    def _occupy(self, lane: Lane, reader: Reader, asked: Asked) -> list[Look]:
        try:
            return list(self._looks(lane, reader, asked))
        except BaseException as error:
            self.fault = error
            raise
        finally:
            with self._change:
                self._taken.remove(lane)
                self._change.notify_all()

    def _looks(self, lane: Lane, reader: Reader, asked: Asked) -> Iterator[Look]:
        """One look; two at half of the images each, and so on, where the engine has no memory for all of them."""
        look = self._look(lane, reader, asked)
        if not isinstance(look.sight, EngineOutOfMemory) or len(asked.images) < 2:
            yield look
            return
        for half in asked.halves():
            yield from self._looks(lane, reader, half)

    def _look(self, lane: Lane, reader: Reader, asked: Asked) -> Look:
        metrics.BATCH_IMAGES.observe(len(asked.images))
        lane.since = time.monotonic()
        sight: Sight | ThoraqError
        try:
            with metrics.INFER_SECONDS.time():
                sight = reader.look(asked.images, asked.asks)
        except ThoraqError as error:
            log.warning("engine.failed", error=error.type, detail=error.detail, images=len(asked.images))
            sight = error
        with self._change:
            self._looked(len(asked.images), (time.monotonic() - lane.since) / len(self._taken))
        return Look(asked.keys, sight, time.perf_counter())
