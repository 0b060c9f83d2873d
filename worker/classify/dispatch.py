"""A batch before the engine: what goes through it at once, how that is halved, and what there is to say afterwards.

An engine that works on several inferences side by side has a lane for each. Batches are not waited for one after the
other: a lane that is done with its part of one takes its part of the next, while the others are still at work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import structlog

from shared import metrics
from shared.db.tables import Classifier, Modality
from shared.errors import EngineOutOfMemory, ThoraqError
from worker.classify.loading import Pixels, Study
from worker.classify.predictor import ImageRequest, Prediction, Predictor, RawOutputs, RejectedImage

log = structlog.get_logger(__name__)
#: An image and a classifier: what several jobs of a batch ask of it is predicted once.
Key = tuple[str, Classifier]
#: An error is what kept the engine from seeing the image.
Predictions = dict[Key, Prediction | RejectedImage | ThoraqError]


class Stopped(Exception):
    """The worker is to stop, and has not shown the engine everything yet."""


@dataclass(frozen=True)
class InferenceBatch:
    """Images that go through the engine at once, and what is asked about them."""

    keys: list[Key]
    requests: list[ImageRequest]
    images: Pixels
    #: it is one of several that come one after the other
    of_several: bool = False

    def halves(self) -> tuple[InferenceBatch, InferenceBatch]:
        """Return the same in two; there must be two images or more."""
        half = len(self.images) // 2
        return self._part(0, half), self._part(half, len(self.images))

    def _part(self, start: int, end: int) -> InferenceBatch:
        pairs = [
            (key, request) for key, request in zip(self.keys, self.requests, strict=True) if start <= request.row < end
        ]
        requests = [replace(request, row=request.row - start) for _, request in pairs]
        return InferenceBatch([key for key, _ in pairs], requests, self.images[start:end], self.of_several)


@dataclass(frozen=True)
class InferenceResult:
    """What the engine has seen of the images that were asked about, or what kept it from that."""

    keys: list[Key]
    outputs: RawOutputs | ThoraqError
    #: seconds of time.perf_counter()
    ended: float

    def predictions(self, *, heatmaps: bool) -> Predictions:
        """Return what the heads say, or the error for each image."""
        if isinstance(self.outputs, ThoraqError):
            return dict.fromkeys(self.keys, self.outputs)
        return dict(zip(self.keys, self.outputs.predictions(heatmaps=heatmaps), strict=True))


def split(studies: Sequence[Study], batch_size: int, predictor: Predictor) -> Iterator[InferenceBatch]:
    """All images of the studies, a lane's part of a batch at once (a study alone may have thousands of them).

    What does not fill a batch is shared among the lanes alike: one lane with all of it would leave the others' cores
    idle, and small parts are as fast, image by image.

    Those for the first batch are made here, and not when a lane is free: it would wait for the copy, and for the other
    threads' turns.
    """
    together = min(batch_size, predictor.max_batch or batch_size)
    pixels = [(study, study.pixels) for study in studies]
    images = {name: image for _, found in pixels for name, image in found.items()}
    wanted = {(name, study.claim.classifier): study.claim.modality for study, found in pixels for name in found}
    share = -(-len(images) // predictor.lanes)
    batches = _batches(images, wanted, max(min(together // predictor.lanes, share), 1))
    return chain(list(islice(batches, predictor.lanes)), batches)


def _batches(images: Mapping[str, Pixels], wanted: Mapping[Key, Modality], size: int) -> Iterator[InferenceBatch]:
    names = list(images)
    for start in range(0, len(names), size):
        rows = {name: row for row, name in enumerate(names[start : start + size])}
        requests = {
            key: ImageRequest(rows[key[0]], key[1], sent_as) for key, sent_as in wanted.items() if key[0] in rows
        }
        pixels = np.stack([images[name] for name in rows])
        yield InferenceBatch(list(requests), list(requests.values()), pixels, of_several=len(names) > size)


@dataclass(frozen=True)
class BatchPredictions:
    """What there is to say of all that was asked together, and the seconds that the engine had it."""

    predictions: Predictions
    seconds: float


@dataclass(eq=False)
class Lane:
    """A lane that is taken; `since`: seconds of time.monotonic() at which its present inference began.

    `beside`: when it was taken, others were, or were about to be.
    """

    since: float
    beside: bool


class InferenceDispatcher:
    """Sends images to the engine; `on_inference` is called after each inference: how many they were, and its seconds.

    The seconds are those of one lane among as many as were busy.
    """

    def __init__(self, *, heatmaps: bool, keep: int, on_inference: Callable[[int, float], None]) -> None:
        self._heatmaps, self._keep, self._on_inference = heatmaps, keep, on_inference
        self._threads = ThreadPoolExecutor(thread_name_prefix="infer")
        self._taken: set[Lane] = set()
        self._change = threading.Condition()
        #: What ended an inference and is no error of the engine's; raised to whoever waits for a lane next.
        self.fault: BaseException | None = None

    @property
    def since(self) -> float | None:
        """Seconds of time.monotonic() at which the oldest inference that is under way began."""
        with self._change:
            return min((lane.since for lane in self._taken), default=None)

    def wait_free(self, lanes: int) -> None:
        """Until one of so many lanes has nothing to do; raises `fault`: nothing more is to be shown then."""
        with self._change:
            self._change.wait_for(lambda: len(self._taken) < lanes)
            if self.fault is not None:
                raise self.fault

    def submit(
        self, predictor: Predictor, batches: Iterator[InferenceBatch], stopping: threading.Event
    ) -> Callable[[], BatchPredictions]:
        """Return as soon as the engine has all of it; what is returned waits for it, and says what it makes of it.

        Raises Stopped when `stopping` is set and there is more to see than jobs that were claimed together have: a
        large study takes minutes.
        """
        began = time.perf_counter()
        keep = self._keep * predictor.lanes
        predictions = Predictions()
        coming: deque[Future[list[InferenceResult]]] = deque()
        for place, batch in enumerate(batches):
            if place >= keep and stopping.is_set():
                raise Stopped
            # What an inference leaves is large: of a study of thousands of images, only the last are kept for later.
            if len(coming) == keep:
                predictions |= self._predictions(coming.popleft().result())
            coming.append(self._begin(predictor, batch))

        def wait() -> BatchPredictions:
            results = [result for some in coming for result in some.result()]
            seconds = max((result.ended for result in results), default=began) - began
            return BatchPredictions(predictions | self._predictions(results), seconds)

        return wait

    def _predictions(self, results: Sequence[InferenceResult]) -> Predictions:
        return Predictions(
            (key, said) for result in results for key, said in result.predictions(heatmaps=self._heatmaps).items()
        )

    def _begin(self, predictor: Predictor, batch: InferenceBatch) -> Future[list[InferenceResult]]:
        """Take a lane, once there is one."""
        with self._change:
            self.wait_free(predictor.lanes)
            lane = Lane(time.monotonic(), batch.of_several or bool(self._taken))
            self._taken.add(lane)
        return self._threads.submit(self._occupy, lane, predictor, batch)

    def _occupy(self, lane: Lane, predictor: Predictor, batch: InferenceBatch) -> list[InferenceResult]:
        try:
            return list(self._infer_halving(lane, predictor, batch))
        except BaseException as error:
            self.fault = error
            raise
        finally:
            with self._change:
                self._taken.remove(lane)
                self._change.notify_all()

    def _infer_halving(self, lane: Lane, predictor: Predictor, batch: InferenceBatch) -> Iterator[InferenceResult]:
        """Infer at once; in two halves, and so on, where the engine has no memory for all of the images."""
        result = self._infer(lane, predictor, batch)
        if not isinstance(result.outputs, EngineOutOfMemory) or len(batch.images) < 2:
            yield result
            return
        for half in batch.halves():
            yield from self._infer_halving(lane, predictor, half)

    def _infer(self, lane: Lane, predictor: Predictor, batch: InferenceBatch) -> InferenceResult:
        metrics.BATCH_IMAGES.observe(len(batch.images))
        lane.since = time.monotonic()
        outputs: RawOutputs | ThoraqError
        try:
            with metrics.INFER_SECONDS.time():
                outputs = predictor.infer(batch.images, batch.requests, beside=lane.beside)
        except ThoraqError as error:
            log.warning("engine.failed", error=error.type, detail=error.detail, images=len(batch.images))
            outputs = error
        with self._change:
            self._on_inference(len(batch.images), (time.monotonic() - lane.since) / len(self._taken))
        return InferenceResult(batch.keys, outputs, time.perf_counter())
