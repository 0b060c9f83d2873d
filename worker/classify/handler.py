"""The story of a job in a worker: claim, load, decode, infer, finish.

Threads pass batches on: one claims and loads the next while the engine has this one, each of its lanes in a thread of
worker/classify/dispatch.py, and the one before is written. What is claimed and not run yet is little, and stat studies
go before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial

import structlog

from shared.bundle_registry import register
from shared.config import Settings
from shared.db.engine import Database
from shared.doorbell import CLASSIFY, ring
from shared.errors import ThoraqError
from shared.jobs.claims import Outcome
from shared.storage import Storage
from worker.classify.aggregate import answer
from worker.classify.dispatch import BatchPredictions, InferenceDispatcher, Stopped, split
from worker.classify.leases import Leases
from worker.classify.load import Loader
from worker.classify.loading import Study
from worker.classify.predictor import Prediction, Predictor, RejectedImage
from worker.classify.prefetch import MOST_BATCHES, Batch, Prefetcher, studies_of
from worker.classify.write_back import Writer
from worker.runner import Serving

log = structlog.get_logger(__name__)


class Classify:
    """The handler of the classify queue. Not re-entrant: one drain at a time."""

    serving: Serving | None

    def __init__(
        self, name: str, settings: Settings, database: Database, storage: Storage, predictor: Predictor
    ) -> None:
        self._settings, self._database = settings, database
        self._got_on()
        self._loader = Loader(storage, settings, self._got_on)
        self._leases = Leases(database, timedelta(seconds=settings.lease_seconds))
        self._writer = Writer(settings, database, self._leases)
        self._prefetcher = Prefetcher(name, settings, database, self._loader, self._leases, self._got_on)
        self._dispatcher = InferenceDispatcher(
            heatmaps=settings.heatmaps, keep=MOST_BATCHES, on_inference=self._note_inference
        )
        self.swap(predictor)

    @property
    def progress(self) -> float:
        """Seconds of time.monotonic() at which the work last got anywhere.

        While the engine has images, or a picture is decoded in this process, what is claimed and loaded beside it is
        none: a hung call would be hidden by it.
        """
        under_way = [since for since in (self._dispatcher.since, self._loader.since) if since is not None]
        return min(under_way, default=self._progress)

    @progress.setter
    def progress(self, at: float) -> None:
        self._progress = at

    def _got_on(self) -> None:
        self._progress = time.monotonic()

    def _note_inference(self, images: int, seconds: float) -> None:
        self._prefetcher.pace.note(images, seconds)
        self._got_on()

    def swap(self, predictor: Predictor) -> None:
        """Answer with this predictor what is claimed from now on; from any thread.

        What was claimed before is answered by the one that it was prepared for. Raises Unavailable, and changes
        nothing, while the database is away: results name the bundle's row.
        """
        with self._database.transaction() as session:
            register(session, predictor.bundle)
        self._predictor = predictor
        self.serving = Serving(predictor.bundle.sha256, predictor.engine_name, predictor.engine_reason)

    def drain(self, stopping: threading.Event) -> None:
        """Work through batches until none is left or the time is over; what was run is written by then."""
        self._dispatcher.fault = None
        try:
            with closing(self._batches(stopping)) as batches:
                for batch in batches:
                    self._writer.put(batch.claims, self._run(batch, stopping))
                    self._got_on()
        finally:
            self._writer.wait()

    def beat(self) -> None:
        """Extend the leases of what is claimed here and not yet written."""
        self._leases.beat()

    def _batches(self, stopping: threading.Event) -> Generator[Batch, None, None]:
        """Batches as they come, the next ones in the making; what is not wanted any more is given back."""
        until = time.monotonic() + self._settings.drain_seconds
        self._prefetcher.start(self._predictor, engine_idle=True)
        ready: deque[Batch] = deque()
        try:
            while self._prefetcher.started:
                self._dispatcher.wait_free(self._predictor.lanes)
                ready.extend(self._prefetcher.next())
                self._got_on()
                if stopping.is_set() or not (ready or self._prefetcher.late):
                    return
                # While jobs are late, others are claimed all the same, and the late ones come out of the same call.
                isolated = bool(ready) and ready[0].isolated
                more = time.monotonic() < until or self._prefetcher.late
                if isolated:
                    self._writer.wait()
                elif more:
                    self._prefetcher.start(self._predictor)
                while ready and not stopping.is_set():
                    yield ready.popleft()
                if isolated and more:
                    self._writer.wait()
                    self._prefetcher.start(self._predictor, engine_idle=True)
        finally:
            ready.extend(self._prefetcher.next())
            for batch in ready:
                self._leases.release(batch.claims)
            if stopping.is_set():
                self._prefetcher.give_up()
        # Another worker may be idle; this one goes on when the bell comes round.
        ring(self._settings, CLASSIFY)

    def _run(self, batch: Batch, stopping: threading.Event) -> Callable[[], list[Outcome]]:
        """Give a batch to the engine. What becomes of it is waited for by whoever asks for its outcomes."""
        ended = [entry for entry in batch.entries if isinstance(entry, Outcome)]
        studies = [study for study in studies_of(batch.entries) if self._leases.is_leased(study.claim)]
        whole = len(ended) + len(studies) == len(batch.entries)
        try:
            inference_batches = (
                batch.inference_batches if whole else split(studies, self._settings.batch_size, batch.predictor)
            )
            wait = self._dispatcher.submit(batch.predictor, inference_batches, stopping)
        except Stopped:
            self._leases.release(batch.claims)
            return list
        except BaseException:
            self._leases.forget(batch.claims)
            raise
        return partial(_outcomes, batch.predictor, ended, studies, wait)


def _outcomes(
    predictor: Predictor,
    ended: Sequence[Outcome],
    studies: Sequence[Study],
    wait: Callable[[], BatchPredictions],
) -> list[Outcome]:
    """How each claim of a batch ended."""
    found = wait()
    outcomes = list(ended)
    for study in studies:
        mine = {name: found.predictions[name, study.claim.classifier] for name in study.pixels}
        outcomes.append(_outcome(study, mine, predictor.bundle.sha256, found.seconds))
    return outcomes


def _outcome(
    study: Study, mine: Mapping[str, Prediction | RejectedImage | ThoraqError], bundle_sha256: str, seconds: float
) -> Outcome:
    said: dict[str, Prediction | RejectedImage] = {}
    for name, prediction in mine.items():
        if isinstance(prediction, ThoraqError):
            return Outcome(study.claim, error=prediction)
        said[name] = prediction
    return Outcome(study.claim, answer=answer(study, said, bundle_sha256, seconds))
