"""The story of a job in a worker: claim, load, decode, infer, finish.

While the engine runs one batch, the next one is claimed, fetched and decoded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import structlog

from shared import jobs, metrics
from shared.config import Settings
from shared.db import Database
from shared.errors import ThoraqError, Unavailable
from shared.imaging.decode import Limits
from shared.jobs import Claim, Outcome
from shared.model_store import register
from shared.models import Classifier
from shared.queue import CLASSIFY, DELIVER, ring
from shared.storage import Storage
from shared.webhooks import deliveries_scheduled
from worker.answer import answer
from worker.load import Loader, Pixels, Study
from worker.model import Ask, Model, Reading, Refusal

log = structlog.get_logger(__name__)
#: By image id and classifier: an image that several jobs of a batch ask about is read once.
Readings = dict[tuple[str, Classifier], Reading | Refusal]


@dataclass(frozen=True)
class Batch:
    """What was claimed together, prepared for `model`, which must then answer it."""

    model: Model
    entries: list[Study | Outcome]

    @property
    def claims(self) -> list[Claim]:
        """Everything that is on lease for it."""
        return [entry.claim for entry in self.entries]


class Classify:
    """The role of the classify queue. Not re-entrant: one drain at a time."""

    bundle_sha256: str | None

    def __init__(self, name: str, settings: Settings, database: Database, storage: Storage, model: Model) -> None:
        self.progress = time.monotonic()
        self._name, self._settings, self._database = name, settings, database
        self._loader = Loader(storage, Limits(settings.max_pixels, settings.max_frames), settings.decode_threads)
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._policy = jobs.RetryPolicy(settings.max_error_attempts, settings.retry_base_seconds)
        self._held: dict[str, Claim] = {}
        self._held_lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "claim-ahead")
        self.swap(model)

    def swap(self, model: Model) -> None:
        """Answer with this model what is claimed from now on; from any thread.

        What was claimed before is answered by the model that it was prepared for. Raises Unavailable, and changes
        nothing, while the database is away: results name the bundle's row.
        """
        with self._database.transaction() as session:
            register(session, model.bundle)
        self._model, self.bundle_sha256 = model, model.bundle.sha256

    def drain(self, stopping: threading.Event) -> None:
        """Work through batches, one ahead of the engine, until none is left or the time is over."""
        until = time.monotonic() + self._settings.drain_seconds
        coming: Future[Batch] | None = self._ahead.submit(self._take)
        while coming is not None and (batch := coming.result()).entries:
            if stopping.is_set():
                self._release(batch)
                return
            coming = self._ahead.submit(self._take) if time.monotonic() < until else None
            try:
                self._finish(self._infer(batch))
            except BaseException:
                if coming is not None:
                    self._release(coming.result())
                raise
            finally:
                # Whatever became of it, nobody works on it any more: its leases must not be kept alive.
                self._forget(batch.claims)
            self.progress = time.monotonic()
        if coming is None:
            # Another worker may be idle; this one goes on when the bell comes round.
            ring(self._settings, CLASSIFY)

    def beat(self) -> None:
        """Extend the leases of what is claimed here; what was lost meanwhile is not worth running."""
        with self._held_lock:
            claims = list(self._held.values())
        if not claims:
            return
        with self._database.transaction() as session:
            kept = jobs.heartbeat(session, claims, self._lease)
        self._forget([claim for claim in claims if claim.job_id not in kept])

    def _take(self) -> Batch:
        size, model = self._settings.batch_size, self._model
        with self._database.transaction() as session:
            claims = jobs.claim(session, worker=self._name, max_images=size, lease=self._lease)
        with self._held_lock:
            self._held.update({claim.job_id: claim for claim in claims})
        try:
            with metrics.LOAD_SECONDS.time():
                batch = Batch(model, self._loader.load(claims, model.bundle.input))
        except BaseException:
            self._forget(claims)
            raise
        self.progress = time.monotonic()
        return batch

    def _infer(self, batch: Batch) -> list[Outcome]:
        """How each claim of a batch ended; all images go through the model together, whatever is asked about them."""
        outcomes = [entry for entry in batch.entries if isinstance(entry, Outcome)]
        studies = [entry for entry in batch.entries if isinstance(entry, Study) and self._is_held(entry.claim)]
        started = time.perf_counter()
        try:
            readings = self._read(batch.model, studies)
        except ThoraqError as error:
            log.warning("engine.failed", error=error.type, detail=error.detail, studies=len(studies))
            return outcomes + [Outcome(study.claim, error=error) for study in studies]
        seconds = time.perf_counter() - started
        return outcomes + [self._answered(study, readings, batch.model, seconds) for study in studies]

    def _read(self, model: Model, studies: Sequence[Study]) -> Readings:
        """At most `batch_size` images at once: a study alone may have thousands."""
        pixels = {name: image for study in studies for name, image in study.pixels.items()}
        wanted = {(name, study.claim.classifier): study.claim.modality for study in studies for name in study.pixels}
        names, readings = list(pixels), Readings()
        for start in range(0, len(names), self._settings.batch_size):
            rows = {name: row for row, name in enumerate(names[start : start + self._settings.batch_size])}
            asks = {key: Ask(rows[key[0]], key[1], sent_as) for key, sent_as in wanted.items() if key[0] in rows}
            readings |= zip(asks, self._run(model, [pixels[name] for name in rows], list(asks.values())), strict=True)
        return readings

    def _run(self, model: Model, images: Sequence[Pixels], asks: Sequence[Ask]) -> list[Reading | Refusal]:
        metrics.BATCH_IMAGES.observe(len(images))
        with metrics.INFER_SECONDS.time():
            found = model.read(np.stack(images), asks, heatmaps=self._settings.heatmaps)
        self.progress = time.monotonic()
        return found

    def _answered(self, study: Study, readings: Readings, model: Model, seconds: float) -> Outcome:
        mine = {name: readings[name, study.claim.classifier] for name in study.pixels}
        return Outcome(study.claim, answer=answer(study, mine, model.bundle.sha256, seconds))

    def _finish(self, outcomes: list[Outcome]) -> None:
        lost, told = self._write(outcomes)
        for outcome in outcomes:
            word = "lease_lost" if outcome.claim.job_id in lost else outcome.word
            metrics.JOBS_FINISHED.labels(outcome.claim.classifier, word).inc()
            log.info("job.finished", job_id=outcome.claim.job_id, tenant_id=outcome.claim.tenant_id, outcome=word)
        if told:
            ring(self._settings, DELIVER)

    def _write(self, outcomes: list[Outcome]) -> tuple[list[str], bool]:
        """Commit the outcomes; (jobs whose lease was lost, whether webhooks are due).

        While the database is away the answers are kept for as long as the leases would last: they are paid for. If
        a commit went through and its confirmation did not, the next try finds the leases gone and changes nothing.
        """
        until = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                with self._database.transaction() as session:
                    return jobs.finish(session, outcomes, self._policy), deliveries_scheduled(session)
            except Unavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(self._settings.poll_seconds / 2)

    def _release(self, batch: Batch) -> None:
        self._forget(batch.claims)
        with self._database.transaction() as session:
            jobs.release(session, batch.claims)

    def _is_held(self, claim: Claim) -> bool:
        with self._held_lock:
            return self._held.get(claim.job_id) == claim

    def _forget(self, claims: Sequence[Claim]) -> None:
        with self._held_lock:
            for claim in claims:
                if self._held.get(claim.job_id) == claim:
                    del self._held[claim.job_id]
