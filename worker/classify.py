"""The story of a job in a worker: claim, load, decode, infer, finish.

Three threads pass batches on: one claims and loads the next while the engine has this one and the one before is
written. No more than one batch waits for the engine: a stat study that comes in is behind that one and the one that
runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import chain, islice

import numpy as np
import structlog

from shared import jobs, metrics
from shared.claims import Answer, Claim, Outcome
from shared.config import Settings
from shared.db import Database
from shared.errors import ThoraqError
from shared.imaging.decode import Limits
from shared.model_store import register
from shared.models import Classifier
from shared.queue import CLASSIFY, ring
from shared.reuse import earlier_answers
from shared.storage import Storage
from worker.answer import answer
from worker.leases import Leases
from worker.load import Loader, Pixels, Study, unseen
from worker.model import Ask, Reader, Reading, Refusal, Sight
from worker.write import Writer

log = structlog.get_logger(__name__)
#: An image and a classifier: what several jobs of a batch ask of it is read once.
Key = tuple[str, Classifier]
Readings = dict[Key, Reading | Refusal]
#: A claim, with the answer to it that is known already.
Claimed = tuple[Claim, Answer | None]

#: Where several jobs came at once, more are on their way for so many seconds. A batch that is not full yet waits for
#: them in steps, as long as every step brings some. A study that comes by itself waits for nobody.
BURST_SECONDS, STEP_SECONDS, MOST_STEPS = 0.1, 0.003, 5


@dataclass(frozen=True)
class Asked:
    """Images that go through the engine at once, and what is asked about them."""

    keys: list[Key]
    asks: list[Ask]
    images: Pixels


@dataclass(frozen=True)
class Batch:
    """What was claimed together, prepared for `reader`, which must then answer it."""

    reader: Reader
    entries: list[Study | Outcome]
    #: of all its studies; the first one is ready
    asked: Iterator[Asked]

    @property
    def claims(self) -> list[Claim]:
        """Everything that is on lease for it."""
        return [entry.claim for entry in self.entries]


@dataclass(frozen=True)
class Look:
    """What the engine has seen of the images that were asked about."""

    keys: list[Key]
    sight: Sight

    def readings(self, *, heatmaps: bool) -> Readings:
        """What there is to say."""
        return dict(zip(self.keys, self.sight.readings(heatmaps=heatmaps), strict=True))


class Classify:
    """The role of the classify queue. Not re-entrant: one drain at a time."""

    bundle_sha256: str | None

    def __init__(self, name: str, settings: Settings, database: Database, storage: Storage, reader: Reader) -> None:
        self.progress = time.monotonic()
        self._name, self._settings, self._database = name, settings, database
        self._loader = Loader(storage, Limits(settings.max_pixels, settings.max_frames), settings.decode_threads)
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._ageing = timedelta(seconds=settings.ageing_seconds)
        self._leases = Leases(database, self._lease)
        self._writer = Writer(settings, database, self._leases)
        self._ahead = ThreadPoolExecutor(1, "claim-ahead")
        self._burst_until = 0.0
        self.swap(reader)

    def swap(self, reader: Reader) -> None:
        """Answer with this reader what is claimed from now on; from any thread.

        What was claimed before is answered by the one that it was prepared for. Raises Unavailable, and changes
        nothing, while the database is away: results name the bundle's row.
        """
        with self._database.transaction() as session:
            register(session, reader.bundle)
        self._reader, self.bundle_sha256 = reader, reader.bundle.sha256

    def drain(self, stopping: threading.Event) -> None:
        """Work through batches until none is left or the time is over; what was run is written by then."""
        try:
            with closing(self._batches(stopping)) as batches:
                for batch in batches:
                    self._writer.put(batch.claims, self._run(batch))
                    self.progress = time.monotonic()
        finally:
            self._writer.wait()

    def beat(self) -> None:
        """Extend the leases of what is claimed here and not yet written."""
        self._leases.beat()

    def _batches(self, stopping: threading.Event) -> Generator[Batch, None, None]:
        """Batches as they come, the next one in the making; one that is not wanted any more is given back."""
        until = time.monotonic() + self._settings.drain_seconds
        coming: Future[Batch] | None = self._ahead.submit(self._take)
        try:
            while coming is not None:
                taken, coming = coming, None
                batch = taken.result()
                if stopping.is_set():
                    self._leases.release(batch.claims)
                if stopping.is_set() or not batch.entries:
                    return
                coming = self._ahead.submit(self._take) if time.monotonic() < until else None
                yield batch
        finally:
            if coming is not None:
                self._leases.release(coming.result().claims)
        # Another worker may be idle; this one goes on when the bell comes round.
        ring(self._settings, CLASSIFY)

    def _take(self) -> Batch:
        reader = self._reader
        found: list[Claimed] = []
        try:
            for some in self._gather(reader.bundle.sha256):
                found += some
            answered: list[Study | Outcome] = [
                Outcome(claim, answer=earlier) for claim, earlier in found if earlier is not None
            ]
            loaded = self._load([claim for claim, earlier in found if earlier is None], reader)
            # Made here, and not when the engine is free: it would wait for the copy, and for the other threads' turns.
            asked = _begun(_asked(_studies(loaded), self._settings.batch_size))
            batch = Batch(reader, answered + loaded, asked)
        except BaseException:
            self._leases.forget([claim for claim, _ in found])
            raise
        self.progress = time.monotonic()
        return batch

    def _load(self, claims: Sequence[Claim], reader: Reader) -> list[Study | Outcome]:
        if not reader.needs_pixels:
            return unseen(claims)
        with metrics.LOAD_SECONDS.time():
            return self._loader.load(claims, reader.bundle.input)

    def _gather(self, bundle_sha256: str) -> Iterator[list[Claimed]]:
        """The next jobs, a batch of them in all, waiting for the rest of a burst."""
        room = self._settings.batch_size
        for step in range(MOST_STEPS):
            time.sleep(STEP_SECONDS if step else 0)
            some = self._claim(room, bundle_sha256)
            if step and some and some[0][0].alone:
                # Not with these. It was its turn, so it is the next one that is claimed.
                self._leases.release([claim for claim, _ in some])
                return
            if not some:
                return
            yield some
            first, _ = some[0]
            room -= sum(len(claim.images) for claim, _ in some)
            if room <= 0 or first.alone or first.stat or not self._is_burst(len(some)):
                return

    def _is_burst(self, came: int) -> bool:
        """Whether more are on their way, when so many came at once."""
        now = time.monotonic()
        if came > 1:
            self._burst_until = now + BURST_SECONDS
        return now < self._burst_until

    def _claim(self, max_images: int, bundle_sha256: str) -> list[Claimed]:
        """The next jobs, those whose answer is known with it."""
        with self._database.transaction() as session:
            claims = jobs.claim(
                session, worker=self._name, max_images=max_images, lease=self._lease, ageing=self._ageing
            )
            earlier = earlier_answers(session, claims, bundle_sha256)
        self._leases.add(claims)
        return [(claim, earlier.get(claim.job_id)) for claim in claims]

    def _run(self, batch: Batch) -> Callable[[], list[Outcome]]:
        """Take a batch through the engine. What it then needs to become outcomes is not the engine's business."""
        ended = [entry for entry in batch.entries if isinstance(entry, Outcome)]
        studies = [study for study in _studies(batch.entries) if self._leases.held(study.claim)]
        whole = len(ended) + len(studies) == len(batch.entries)
        started = time.perf_counter()
        try:
            asked = batch.asked if whole else _asked(studies, self._settings.batch_size)
            readings = self._read(batch.reader, asked)
        except ThoraqError as error:
            log.warning("engine.failed", error=error.type, detail=error.detail, studies=len(studies))
            ended += [Outcome(study.claim, error=error) for study in studies]
            return lambda: ended
        except BaseException:
            self._leases.forget(batch.claims)
            raise
        return partial(_outcomes, batch.reader, ended, studies, readings, time.perf_counter() - started)

    def _read(self, reader: Reader, asked: Iterator[Asked]) -> Callable[[], Readings]:
        """Show the images to the engine; what is returned says what it makes of them, when asked to."""
        readings = Readings()
        heatmaps, last = self._settings.heatmaps, None
        for one in asked:
            # What a look leaves is large: of a study of thousands of images, only the last is kept for later.
            if last is not None:
                readings |= last.readings(heatmaps=heatmaps)
            last = self._look(reader, one)
        return lambda: readings if last is None else readings | last.readings(heatmaps=heatmaps)

    def _look(self, reader: Reader, asked: Asked) -> Look:
        metrics.BATCH_IMAGES.observe(len(asked.images))
        with metrics.INFER_SECONDS.time():
            sight = reader.look(asked.images, asked.asks)
        self.progress = time.monotonic()
        return Look(asked.keys, sight)


def _studies(entries: Sequence[Study | Outcome]) -> list[Study]:
    return [entry for entry in entries if isinstance(entry, Study)]


def _asked(studies: Sequence[Study], size: int) -> Iterator[Asked]:
    """At most so many images at once: a study alone may have thousands."""
    pixels = {name: image for study in studies for name, image in study.pixels.items()}
    wanted = {(name, study.claim.classifier): study.claim.modality for study in studies for name in study.pixels}
    names = list(pixels)
    for start in range(0, len(names), size):
        rows = {name: row for row, name in enumerate(names[start : start + size])}
        asks = {key: Ask(rows[key[0]], key[1], sent_as) for key, sent_as in wanted.items() if key[0] in rows}
        yield Asked(list(asks), list(asks.values()), np.stack([pixels[name] for name in rows]))


def _begun(asked: Iterator[Asked]) -> Iterator[Asked]:
    """The same, the first one made."""
    return chain(list(islice(asked, 1)), asked)


def _outcomes(
    reader: Reader,
    ended: Sequence[Outcome],
    studies: Sequence[Study],
    read: Callable[[], Readings],
    seconds: float,
) -> list[Outcome]:
    """How each claim of a batch ended."""
    readings = read()
    outcomes = list(ended)
    for study in studies:
        mine = {name: readings[name, study.claim.classifier] for name in study.pixels}
        outcomes.append(Outcome(study.claim, answer=answer(study, mine, reader.bundle.sha256, seconds)))
    return outcomes
