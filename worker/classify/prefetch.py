"""The next batch, claimed and loaded while the engine has this one.

As long as the engine is busy there is no hurry: a batch that is not full takes in what comes meanwhile, and a stat
study that comes is made ready to go before it. So a stat study waits for the batch that runs, and for no other.

A batch waits for its files for a moment. Jobs that are not ready then go on loading beside the others
(worker/classify/slow_jobs.py), and are handed over when they are.

A job that runs in isolation (its last worker died) has this worker to itself: nothing else is claimed until the engine
is done with it, and the engine gets it when all else is written. Else the jobs beside it would pay for its crashes, or
it for theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count

from shared import metrics
from shared.config import Settings
from shared.db.engine import Database
from shared.jobs import states
from shared.jobs.claims import Answer, Claim, Outcome
from shared.jobs.reuse import earlier_answers
from worker.classify.dispatch import InferenceBatch, split
from worker.classify.leases import Leases
from worker.classify.load import Loader
from worker.classify.loading import Loading, Study, unseen
from worker.classify.predictor import Predictor
from worker.classify.slow_jobs import LOOK_SECONDS, Late

#: A claim, with the answer to it that is known already.
Claimed = tuple[Claim, Answer | None]

#: Between two looks for what has come meanwhile.
STEP_SECONDS = 0.015
#: Between two looks for a stat study while a full batch is ready: the disk and the cores are wanted elsewhere then.
URGENT_SECONDS = 0.05
#: Where several jobs came at once, more are on their way for so many seconds: a batch that is not full yet waits a step
#: for them, as long as the last one brought some. A study that comes by itself waits for nobody.
BURST_SECONDS, MOST_STEPS = 0.1, 3
#: How long a batch waits for its files; and when it has waited for so long, for what came later.
PATIENCE_SECONDS, LEAST_PATIENCE_SECONDS = 1.0, 0.2
#: After so many claims of stat, one goes by turns alone: a tenant that always has stat waiting keeps nobody out.
STAT_CLAIMS = 3
#: Between two looks for work when all that is left is late.
LATE_SECONDS = 0.1
#: What is claimed at once: as many batches as the engine does in this time, and no more than so many. A transaction for
#: each single batch would keep a fast engine waiting.
LOT_SECONDS, MOST_BATCHES = 0.1, 8


@dataclass(frozen=True)
class Batch:
    """What was claimed together, prepared for `predictor`, which must then answer it."""

    predictor: Predictor
    entries: list[Study | Outcome]
    #: of all its studies; the first one is ready
    inference_batches: Iterator[InferenceBatch]

    @property
    def claims(self) -> list[Claim]:
        """Everything that is on lease for it."""
        return [entry.claim for entry in self.entries]

    @property
    def isolated(self) -> bool:
        """True if the batch must run in isolation: nothing may be claimed beside it."""
        return any(claim.isolated for claim in self.claims)


class Pace:
    """How much the engine gets done, from its last inferences."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._rate = 0.0

    def note(self, images: int, seconds: float) -> None:
        """Note that an inference of so many images has taken so many seconds."""
        rate = images / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.8 * self._rate + 0.2 * rate

    @property
    def lot(self) -> int:
        """How many images to claim at once: whole batches."""
        batches = int(self._rate * LOT_SECONDS) // self._batch_size
        return self._batch_size * min(max(batches, 1), MOST_BATCHES)


class Prefetcher:
    """Claims and loads the next batches in a thread of its own: `start` begins to, `next` waits for them."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        database: Database,
        loader: Loader,
        leases: Leases,
        on_progress: Callable[[], None],
    ) -> None:
        self.pace = Pace(settings.batch_size)
        self._thread = ThreadPoolExecutor(1, "claim-ahead")
        self._coming: Future[list[Batch]] | None = None
        self._on_progress = on_progress
        #: set while the engine, or a lane of it, has nothing to do
        self._engine_idle = threading.Event()
        self._name, self._settings, self._database = name, settings, database
        self._loader, self._leases = loader, leases
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._ageing = timedelta(seconds=settings.ageing_seconds)
        self._burst_until = self._patient_until = 0.0
        self._late = Late(leases)
        self._stat_claims = 0

    @property
    def started(self) -> bool:
        """True from `start` until `next` has returned what it began."""
        return self._coming is not None

    @property
    def late(self) -> bool:
        """True while jobs are on lease here that are not ready yet."""
        return bool(self._late)

    def start(self, predictor: Predictor, *, engine_idle: bool = False) -> None:
        """Begin to claim and load the next batches; without delay if the engine has nothing to do meanwhile."""
        if engine_idle:
            self._engine_idle.set()
        self._coming = self._thread.submit(self._next_batches, predictor)

    def next(self) -> list[Batch]:
        """Wait for the batches that `start` began; empty if it was not called. The engine is idle meanwhile."""
        coming, self._coming = self._coming, None
        if coming is None:
            return []
        self._engine_idle.set()
        batches = coming.result()
        self._engine_idle.clear()
        return batches

    def give_up(self) -> None:
        """Give back the jobs that are not ready yet: the worker stops."""
        self._late.give_up()

    def _next_batches(self, predictor: Predictor) -> list[Batch]:
        """Claim and load a batch, with stat studies before it that came while it waited; or nothing.

        What was late, and has become ready, comes first.
        """
        batches = self._late_or_next(predictor)
        self._on_progress()
        return batches

    def _late_or_next(self, predictor: Predictor) -> list[Batch]:
        if found := self._late.ready():
            return [self._made(predictor, entries) for predictor, entries in found]
        claimed: list[Claimed] = []
        self._patient_until = time.monotonic() + PATIENCE_SECONDS
        try:
            batch = self._batch(predictor, self._fill(predictor, claimed))
            urgent = [] if not claimed or _goes_by_itself(claimed[0]) else list(self._urgent(predictor, claimed))
        except BaseException:
            self._leases.forget([claim for claim, _ in claimed])
            raise
        if not claimed and self._late:
            self._late.wait(LATE_SECONDS)
        return [one for one in (*urgent, batch) if one.entries]

    def _fill(self, predictor: Predictor, claimed: list[Claimed]) -> Iterator[list[Claimed]]:
        """Claim the next jobs as they come, until the batch is full or the engine waits for it."""
        room = self.pace.lot
        for step in count():
            idle = self._engine_idle.is_set()
            some = self._claim(room, predictor, allow_isolated=idle and not claimed)
            by_itself = not claimed and some and _goes_by_itself(some[0])
            if some:
                claimed += some
                yield some
                room -= sum(len(claim.images) for claim, _ in some)
            # With nothing claimed, only a look while the engine was idle has seen whether an isolated job waits.
            idle = self._engine_idle.is_set() if claimed else idle
            if by_itself or room <= 0 or not self._more_may_come(len(some), step, idle):
                return

    def _more_may_come(self, came: int, step: int, idle: bool) -> bool:
        """Whether there is a reason to look once more; if so, after a moment."""
        now = time.monotonic()
        if came > 1:
            self._burst_until = now + BURST_SECONDS
        if not idle:
            self._engine_idle.wait(STEP_SECONDS)
            return True
        more = came > 0 and now < self._burst_until and step < MOST_STEPS
        if more:
            time.sleep(STEP_SECONDS)
        return more

    def _urgent(self, predictor: Predictor, claimed: list[Claimed]) -> Iterator[Batch]:
        """Stat studies that come before the engine is free."""
        while not self._is_for_turns and not self._engine_idle.wait(URGENT_SECONDS):
            some = self._claim(self._settings.batch_size, predictor, stat_only=True)
            if some:
                claimed += some
                yield self._batch(predictor, [some])

    def _claim(
        self, max_images: int, predictor: Predictor, *, stat_only: bool = False, allow_isolated: bool = False
    ) -> list[Claimed]:
        """Return the next jobs, those whose answer is known with it."""
        with self._database.transaction() as session:
            claim = partial(
                states.claim,
                session,
                worker=self._name,
                max_images=max_images,
                lease=self._lease,
                ageing=self._ageing,
                allow_isolated=allow_isolated,
                without=self._late.tenants(),
            )
            claims = claim(by_turns=True) if self._is_for_turns else []
            claims = claims or claim(stat_only=stat_only)
            if claims:
                self._stat_claims = self._stat_claims + 1 if claims[0].stat else 0
            earlier = earlier_answers(session, claims, predictor.bundle.sha256)
        self._leases.add(claims)
        return [(claim, earlier.get(claim.job_id)) for claim in claims]

    @property
    def _is_for_turns(self) -> bool:
        """Whether the next claim goes by turns alone."""
        return self._stat_claims >= STAT_CLAIMS

    def _batch(self, predictor: Predictor, found: Iterable[list[Claimed]]) -> Batch:
        """One of all that is found; each part is loaded as soon as it is there."""
        entries: list[Study | Outcome] = []
        for some in found:
            entries += [Outcome(claim, answer=earlier) for claim, earlier in some if earlier is not None]
            entries += self._load([claim for claim, earlier in some if earlier is None], predictor)
        return self._made(predictor, entries)

    def _made(self, predictor: Predictor, entries: list[Study | Outcome]) -> Batch:
        return Batch(predictor, entries, split(studies_of(entries), self._settings.batch_size, predictor))

    def _load(self, claims: Sequence[Claim], predictor: Predictor) -> list[Study | Outcome]:
        if not predictor.needs_pixels:
            return unseen(claims)
        if not claims:
            return []
        with metrics.LOAD_SECONDS.time():
            loading = self._loader.load(claims, predictor.bundle.input)
            if loading.isolated:
                return self._wait_for(loading)
            ready = loading.results(max(self._patient_until - time.monotonic(), LEAST_PATIENCE_SECONDS))
        if loading.pending:
            self._late.add(loading, predictor)
        return ready

    def _wait_for(self, loading: Loading) -> list[Study | Outcome]:
        """All of it, however long it takes: beside an isolated job nothing else may be on lease."""
        ready: list[Study | Outcome] = []
        while loading.pending:
            ready += loading.results(LOOK_SECONDS)
            self._loader.progress()  # the decoder's process, which has deadlines of its own, may be starting
            loading.drop(self._leases.lost(loading.pending))
        return ready


def _goes_by_itself(claimed: Claimed) -> bool:
    claim, _ = claimed
    return claim.isolated or claim.stat


def studies_of(entries: Sequence[Study | Outcome]) -> list[Study]:
    """Those that go to the engine."""
    return [entry for entry in entries if isinstance(entry, Study)]
