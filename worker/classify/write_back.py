"""The way back: how batches ended, committed one after the other while the engine has the next one."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog
from sqlalchemy.exc import DBAPIError

from shared import metrics
from shared.config import Settings
from shared.db.engine import Database
from shared.doorbell import DELIVER, ring
from shared.errors import ThoraqError, Unavailable
from shared.jobs import states
from shared.jobs.claims import Claim, Outcome, RetryPolicy
from shared.webhooks.outbox import deliveries_scheduled
from worker.classify.leases import Leases

log = structlog.get_logger(__name__)


class Writer:
    """Writes in a thread of its own. One commit a batch, and one batch under way; its leases are held until then."""

    def __init__(self, settings: Settings, database: Database, leases: Leases) -> None:
        self._settings, self._database, self._leases = settings, database, leases
        self._policy = RetryPolicy(settings.max_error_attempts, settings.retry_base_seconds)
        self._pool = ThreadPoolExecutor(1, "write-back")
        self._under_way: Future[None] | None = None

    def put(self, claims: Sequence[Claim], outcomes: Callable[[], list[Outcome]]) -> None:
        """Have the outcomes of these claims made and written. Waits for the batch before, and raises what it met."""
        before, self._under_way = self._under_way, self._pool.submit(self._finish, claims, outcomes)
        if before is not None:
            before.result()

    def wait(self) -> None:
        """Until everything is written; raises what the last batch met."""
        before, self._under_way = self._under_way, None
        if before is not None:
            before.result()

    def _finish(self, claims: Sequence[Claim], make: Callable[[], list[Outcome]]) -> None:
        try:
            outcomes = make()
            lost, has_subscribers = self._write(outcomes)
        finally:
            # Whatever became of it, nobody works on it any more: its leases must not be kept alive.
            self._leases.forget(claims)
        _report(outcomes, lost)
        if has_subscribers:
            ring(self._settings, DELIVER)

    def _write(self, outcomes: Sequence[Outcome]) -> tuple[list[str], bool]:
        """Commit the outcomes; (jobs whose lease was lost, whether webhooks are due).

        While the database is away the answers are kept for as long as the leases would last: they are paid for. If
        a commit went through and its confirmation did not, the next try finds the leases gone and changes nothing.
        """
        until = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                return self._commit(outcomes)
            except DBAPIError as error:
                if len(outcomes) == 1:
                    raise
                log.warning("jobs.finished_apart", jobs=len(outcomes), error=type(error.orig).__name__)
                return self._write_apart(outcomes)
            except Unavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(self._settings.poll_seconds / 2)

    def _commit(self, outcomes: Sequence[Outcome]) -> tuple[list[str], bool]:
        with self._database.transaction() as session:
            return states.finish(session, outcomes, self._policy), deliveries_scheduled(session)

    def _write_apart(self, outcomes: Sequence[Outcome]) -> tuple[list[str], bool]:
        """Commit each outcome by itself: what cannot be written of one job is no fault of the others, or their tenants.

        A job whose outcome the database refuses is given an attempt less instead, as after any fault of ours.
        """
        lost, has_subscribers = list[str](), False
        for outcome in outcomes:
            try:
                gone, scheduled = self._write([outcome])
            except DBAPIError as error:
                log.exception("job.outcome_refused", job_id=outcome.claim.job_id, error=type(error.orig).__name__)
                gone, scheduled = self._write([Outcome(outcome.claim, error=ThoraqError())])
            lost += gone
            has_subscribers |= scheduled
        return lost, has_subscribers


def _report(outcomes: Sequence[Outcome], lost: Collection[str]) -> None:
    """One line for the batch: thousands of jobs a second have no time for one each."""
    gone, by_word = set(lost), defaultdict[str, list[Claim]](list)
    for outcome in outcomes:
        by_word["lease_lost" if outcome.claim.job_id in gone else outcome.word].append(outcome.claim)
    for word, claims in by_word.items():
        for classifier, count in Counter(claim.classifier for claim in claims).items():
            metrics.JOBS_FINISHED.labels(classifier, word).inc(count)
    log.info(
        "jobs.finished",
        job_ids={word: [claim.job_id for claim in claims] for word, claims in by_word.items()},
        tenant_ids=sorted({outcome.claim.tenant_id for outcome in outcomes}),
        reused=sum(outcome.answer is not None and outcome.answer.reused_from is not None for outcome in outcomes),
    )
