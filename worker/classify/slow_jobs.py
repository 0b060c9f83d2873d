"""Jobs whose files take long: they are loaded beside all others, and come to the engine when they are ready.

A batch waits for its files for a moment only. What is not ready then is kept here, on lease, until it is; meanwhile
others' jobs are claimed and run. Whether somebody still wants it is looked up all the time: a job that is cancelled
stops being decoded within a second or two.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection

import structlog

from shared.errors import ThoraqError
from shared.jobs.claims import Outcome
from worker.classify.leases import Leases
from worker.classify.loading import Loading, Study
from worker.classify.predictor import Predictor

log = structlog.get_logger(__name__)
#: Between two looks at the leases.
LOOK_SECONDS = 0.5
#: A tenant with so many late jobs in a worker gets no further ones there: they would fill it while others wait.
MOST_OF_A_TENANT = 8


class Late:
    """The late jobs of one worker. One thread gives and takes; another one looks at the leases while there are any."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._loadings: list[tuple[Loading, Predictor]] = []
        self._lock = threading.Lock()
        self._change = threading.Event()
        self._watch: threading.Thread | None = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        with self._lock:
            return bool(self._loadings)

    def add(self, loading: Loading, predictor: Predictor) -> None:
        """Keep what is not ready of it, which `predictor` is to answer."""
        loading.late, loading.notify = True, self._change.set
        with self._lock:
            self._loadings.append((loading, predictor))
            if self._watch is None:
                self._watch = threading.Thread(target=self._look, name="late", daemon=True)
                self._watch.start()
        self._change.set()  # it may have become ready just now

    def tenants(self) -> Collection[str]:
        """Those that are to have no further jobs here."""
        with self._lock:
            claims = [claim for loading, _ in self._loadings for claim in loading.pending]
        found = Counter(claim.tenant_id for claim in claims)
        return [tenant for tenant, jobs in found.items() if jobs >= MOST_OF_A_TENANT]

    def ready(self) -> list[tuple[Predictor, list[Study | Outcome]]]:
        """Return what has become ready, by the claims that were loaded together."""
        self._change.clear()
        with self._lock:
            kept = list(self._loadings)
        found = [(predictor, self._results(loading)) for loading, predictor in kept]
        with self._lock:
            self._loadings = [pair for pair in self._loadings if pair[0].pending]
        return [(predictor, entries) for predictor, entries in found if entries]

    def _results(self, loading: Loading) -> list[Study | Outcome]:
        try:
            return loading.results(0)
        except BaseException:
            # Nobody works on them any more: their leases run out.
            self._leases.forget(loading.pending)
            loading.drop(loading.pending)
            raise

    def wait(self, seconds: float) -> None:
        """Until something may have become ready."""
        self._change.wait(seconds)

    def give_up(self) -> None:
        """Give all of it back: the worker stops."""
        with self._lock:
            loadings, self._loadings = self._loadings, []
        for loading, _ in loadings:
            claims = loading.pending
            loading.drop(claims)
            self._leases.release(claims)

    def _look(self) -> None:
        """Drop what was cancelled, or is another worker's by now, for as long as there is anything."""
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            with self._lock:
                loadings = [loading for loading, _ in self._loadings]
                if not loadings:
                    self._watch = None
                    return
            try:
                for loading in loadings:
                    if lost := self._leases.lost(loading.pending):
                        log.info("jobs.dropped", job_ids=[claim.job_id for claim in lost])
                        loading.drop(lost)
                        self._change.set()
            except ThoraqError as error:  # the database is away: the next look may find it back
                log.warning("worker.look_failed", error=error.type)
