"""The story of a job in a worker: claim, load, decode, infer, finish.

While the engine runs one batch, the next one is claimed, fetched and decoded.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import insert

from shared import jobs, metrics
from shared.bundle import Bundle
from shared.config import Settings
from shared.db import Database
from shared.errors import ThoraqError, Unavailable
from shared.imaging.decode import Limits
from shared.jobs import Answer, Claim, Outcome
from shared.models import ModelBundle
from shared.queue import CLASSIFY, DELIVER, ring
from shared.storage import Storage
from shared.webhooks import deliveries_scheduled
from worker.engine import Engine
from worker.load import Loader, Study

log = structlog.get_logger(__name__)
Batch = list[Study | Outcome]


class Classify:
    """The role of the classify queue. Not re-entrant: one drain at a time."""

    def __init__(
        self, name: str, settings: Settings, database: Database, storage: Storage, bundle: Bundle, engine: Engine
    ) -> None:
        self.bundle_sha256: str | None = bundle.sha256
        self.progress = time.monotonic()
        self._name, self._settings, self._database = name, settings, database
        self._bundle, self._engine = bundle, engine
        self._loader = Loader(storage, bundle, Limits(settings.max_pixels, settings.max_frames))
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._policy = jobs.RetryPolicy(settings.max_error_attempts, settings.retry_base_seconds)
        self._held: dict[str, Claim] = {}
        self._held_lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "claim-ahead")
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        self._register()

    def drain(self, stopping: threading.Event) -> None:
        """Work through batches, one ahead of the engine, until none is left or the time is over."""
        until = time.monotonic() + self._settings.drain_seconds
        coming: Future[Batch] | None = self._ahead.submit(self._take)
        while coming is not None and (batch := coming.result()):
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
                self._forget([entry.claim for entry in batch])
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
        size = self._settings.batch_size
        with self._database.transaction() as session:
            claims = jobs.claim(session, worker=self._name, max_images=size, lease=self._lease)
        with self._held_lock:
            self._held.update({claim.job_id: claim for claim in claims})
        try:
            with metrics.LOAD_SECONDS.time():
                batch = list(self._decoders.map(self._loader.load, claims))
        except BaseException:
            self._forget(claims)
            raise
        self.progress = time.monotonic()
        return batch

    def _infer(self, batch: Batch) -> list[Outcome]:
        """How each claim of a batch ended; studies that ask the same head go through the engine together."""
        outcomes = [entry for entry in batch if isinstance(entry, Outcome)]
        by_head: dict[str, list[Study]] = defaultdict(list)
        for entry in batch:
            if isinstance(entry, Study) and self._is_held(entry.claim):
                by_head[entry.head.name].append(entry)
        for head, studies in by_head.items():
            outcomes += self._infer_together(head, studies)
        return outcomes

    def _infer_together(self, head: str, studies: list[Study]) -> list[Outcome]:
        pixels = np.stack([image for study in studies for image in study.pixels])
        metrics.BATCH_IMAGES.observe(len(pixels))
        started = time.perf_counter()
        try:
            probabilities = self._engine.predict(pixels, [head])[head]
        except ThoraqError as error:
            log.warning("engine.failed", error=error.type, detail=error.detail, images=len(pixels))
            return [Outcome(study.claim, error=error) for study in studies]
        seconds = time.perf_counter() - started
        metrics.INFER_SECONDS.observe(seconds)
        ends = np.cumsum([len(study.pixels) for study in studies])
        rows = np.split(probabilities, ends[:-1])
        return [
            Outcome(study.claim, answer=self._answer(study, mine, seconds))
            for study, mine in zip(studies, rows, strict=True)
        ]

    def _answer(self, study: Study, rows: NDArray[np.float32], infer_seconds: float) -> Answer:
        classes = study.head.classes
        answers = iter(rows)
        images: list[dict[str, Any]] = []
        for ref, loaded in zip(study.claim.images, study.images, strict=True):
            image: dict[str, Any] = {"image_id": ref.id, "file": ref.file, "frame": ref.frame}
            images.append(image | ({"problem": loaded} if isinstance(loaded, dict) else _named(next(answers), classes)))
        timings = {"queued": study.claim.waited_seconds, "load": study.seconds, "infer": infer_seconds}
        timings["total"] = sum(timings.values())
        return Answer(
            bundle_sha256=self._bundle.sha256,
            images=images,
            timings={name: round(value, 4) for name, value in timings.items()},
            **_named(rows.mean(axis=0), classes),
        )

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
        claims = [entry.claim for entry in batch]
        self._forget(claims)
        with self._database.transaction() as session:
            jobs.release(session, claims)

    def _is_held(self, claim: Claim) -> bool:
        with self._held_lock:
            return self._held.get(claim.job_id) == claim

    def _forget(self, claims: Sequence[Claim]) -> None:
        with self._held_lock:
            for claim in claims:
                if self._held.get(claim.job_id) == claim:
                    del self._held[claim.job_id]

    def _register(self) -> None:
        row = {
            "sha256": self._bundle.sha256,
            "name": self._bundle.name,
            "version": self._bundle.version,
            "card": self._bundle.card.model_dump(mode="json"),
        }
        with self._database.transaction() as session:
            session.execute(insert(ModelBundle).values(row).on_conflict_do_nothing())


def _named(row: NDArray[np.float32], classes: Sequence[str]) -> dict[str, Any]:
    probabilities = {name: round(float(p), 6) for name, p in zip(classes, row, strict=True)}
    return {"prediction": classes[int(row.argmax())], "probabilities": probabilities}
