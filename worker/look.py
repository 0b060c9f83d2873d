"""A batch before the engine: what is shown to it at once, how that is halved, and what there is to say afterwards."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import structlog

from shared import metrics
from shared.errors import EngineOutOfMemory, ThoraqError
from shared.models import Classifier
from worker.load import Pixels, Study
from worker.model import Ask, Reader, Reading, Refusal, Sight

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

    def readings(self, *, heatmaps: bool) -> Readings:
        """What there is to say."""
        if isinstance(self.sight, ThoraqError):
            return dict.fromkeys(self.keys, self.sight)
        return dict(zip(self.keys, self.sight.readings(heatmaps=heatmaps), strict=True))


def split(studies: Sequence[Study], size: int) -> Iterator[Asked]:
    """All images of the studies, at most so many at once (a study alone may have thousands); the first ones are ready.

    They are made here, and not when the engine is free: it would wait for the copy, and for the other threads' turns.
    """
    asked = _split(studies, size)
    return chain(list(islice(asked, 1)), asked)


def _split(studies: Sequence[Study], size: int) -> Iterator[Asked]:
    pixels = {name: image for study in studies for name, image in study.pixels.items()}
    wanted = {(name, study.claim.classifier): study.claim.modality for study in studies for name in study.pixels}
    names = list(pixels)
    for start in range(0, len(names), size):
        rows = {name: row for row, name in enumerate(names[start : start + size])}
        asks = {key: Ask(rows[key[0]], key[1], sent_as) for key, sent_as in wanted.items() if key[0] in rows}
        yield Asked(list(asks), list(asks.values()), np.stack([pixels[name] for name in rows]))


class Looker:
    """Shows images to the engine; `looked` is told after each look how many they were and how many seconds it took."""

    def __init__(self, *, heatmaps: bool, keep: int, looked: Callable[[int, float], None]) -> None:
        self._heatmaps, self._keep, self._looked = heatmaps, keep, looked
        #: Seconds of time.monotonic() at which the look that is under way began.
        self.since: float | None = None

    def read(self, reader: Reader, asked: Iterator[Asked], stopping: threading.Event) -> Callable[[], Readings]:
        """Show all of it to the engine; what is returned says what it makes of the images, when asked to.

        Raises Stopped when `stopping` is set and there is more to see than jobs that were claimed together have: a
        large study takes minutes.
        """
        readings = Readings()
        looks: deque[Look] = deque()
        for look in chain.from_iterable(self._looks(reader, one) for one in self._until(stopping, asked)):
            # What a look leaves is large: of a study of thousands of images, only the last ones are kept for later.
            if len(looks) == self._keep:
                readings |= looks.popleft().readings(heatmaps=self._heatmaps)
            looks.append(look)

        def read() -> Readings:
            for look in looks:
                readings.update(look.readings(heatmaps=self._heatmaps))
            return readings

        return read

    def _until(self, stopping: threading.Event, asked: Iterator[Asked]) -> Iterator[Asked]:
        for place, one in enumerate(asked):
            if place >= self._keep and stopping.is_set():
                raise Stopped
            yield one

    def _looks(self, reader: Reader, asked: Asked) -> Iterator[Look]:
        """One look; two at half of the images each, and so on, where the engine has no memory for all of them."""
        look = self._look(reader, asked)
        if not isinstance(look.sight, EngineOutOfMemory) or len(asked.images) < 2:
            yield look
            return
        for half in asked.halves():
            yield from self._looks(reader, half)

    def _look(self, reader: Reader, asked: Asked) -> Look:
        metrics.BATCH_IMAGES.observe(len(asked.images))
        self.since = began = time.monotonic()
        sight: Sight | ThoraqError
        try:
            with metrics.INFER_SECONDS.time():
                sight = reader.look(asked.images, asked.asks)
        except ThoraqError as error:
            log.warning("engine.failed", error=error.type, detail=error.detail, images=len(asked.images))
            sight = error
        finally:
            self.since = None
        self._looked(len(asked.images), time.monotonic() - began)
        return Look(asked.keys, sight)
