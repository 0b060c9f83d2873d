"""What becomes of a batch while its jobs run, against a real PostgreSQL: counts, completion, cancelling, expiry."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Batch, Event, EventType, Job, JobState
from shared.errors import Conflict, CorruptImage, NotFound
from shared.jobs import states
from shared.jobs.claims import Outcome
from tests.support.rows import (
    POLICY,
    add_batch,
    add_bundle,
    add_endpoint,
    add_job,
    add_tenant,
    answer,
    take,
    told,
)

COUNTS = (Batch.queued, Batch.running, Batch.succeeded, Batch.failed, Batch.cancelled)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """An empty database that knows the bundle the tests answer with."""
    with clean_database.transaction() as session:
        add_bundle(session)
    return clean_database


def counts(database: Database, batch_id: str) -> tuple[int, ...]:
    """Queued, running, succeeded, failed, cancelled."""
    with database.transaction() as session:
        return tuple(session.execute(sa.select(*COUNTS).where(Batch.id == batch_id)).one())


def row(database: Database, batch_id: str) -> Batch:
    """The batch's row now."""
    with database.transaction() as session:
        return session.get_one(Batch, batch_id)


def made(database: Database, many: int, *, received: bool = True) -> tuple[str, str, list[str]]:
    """A batch of so many jobs, of a tenant with an endpoint: the tenant's id, the batch's, the jobs'."""
    with database.transaction() as session:
        tenant = add_tenant(session)
        add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        batch = add_batch(session, tenant, total=many, received=received)
        ids = [add_job(session, tenant, batch=batch, item=item).id for item in range(many)]
        return tenant.id, batch.id, ids


def test_a_batch_counts_its_jobs_and_completes_once(database: Database) -> None:
    tenant_id, batch_id, ids = made(database, 3)
    assert row(database, batch_id).started_at is None
    with database.transaction() as session:
        good, bad, _ = take(session)
    assert counts(database, batch_id) == (0, 3, 0, 0, 0)
    started = row(database, batch_id).started_at
    assert started is not None
    with database.transaction() as session:
        states.finish(session, [answer(good), Outcome(bad, error=CorruptImage())], POLICY)
    assert counts(database, batch_id) == (0, 1, 1, 1, 0)
    assert row(database, batch_id).completed_at is None
    with database.transaction() as session:
        states.cancel(session, tenant_id, ids[2])
    assert counts(database, batch_id) == (0, 0, 1, 1, 1)
    assert row(database, batch_id).completed_at is not None
    assert row(database, batch_id).started_at == started
    with database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Event.type == EventType.BATCH_COMPLETED)) == 1
    data = told(database)[EventType.BATCH_COMPLETED]["data"]
    assert (data["status"], data["counts"]["failed"]) == ("completed_with_errors", 1)


def test_a_batch_is_complete_only_when_all_of_it_is_in(database: Database) -> None:
    tenant_id, batch_id, _ = made(database, 1, received=False)
    with database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    assert counts(database, batch_id) == (0, 0, 1, 0, 0)
    assert row(database, batch_id).completed_at is None
    with database.transaction() as session:
        states.close_batch(session, batch_id)
    received = row(database, batch_id).received_at
    assert received is not None
    assert row(database, batch_id).completed_at is not None
    with database.transaction() as session:
        states.close_batch(session, batch_id)
        assert session.scalar(sa.select(sa.func.count()).where(Event.tenant_id == tenant_id)) == 2
    assert row(database, batch_id).received_at == received


def test_a_closed_batch_waits_for_what_still_runs(database: Database) -> None:
    _, batch_id, _ = made(database, 2, received=False)
    with database.transaction() as session:
        first, second = take(session)
        states.finish(session, [answer(first)], POLICY)
    with database.transaction() as session:
        states.close_batch(session, batch_id)
    assert row(database, batch_id).completed_at is None
    with database.transaction() as session:
        states.finish(session, [answer(second)], POLICY)
    assert row(database, batch_id).completed_at is not None


def test_cancelling_a_batch_in_the_middle_leaves_exact_counts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "CHUNK", 2)
    tenant_id, batch_id, ids = made(database, 8)
    with database.transaction() as session:
        done, bad, *running = take(session, max_images=4)
        states.finish(session, [answer(done), Outcome(bad, error=CorruptImage())], POLICY)
    with database.transaction() as session:
        states.cancel_batch(session, tenant_id, batch_id)
    assert counts(database, batch_id) == (0, 0, 1, 1, 6)
    batch = row(database, batch_id)
    assert batch.cancelled_at is not None
    assert batch.completed_at is not None
    with database.transaction() as session:
        assert states.finish(session, [answer(claim) for claim in running], POLICY) == [c.job_id for c in running]
        events = Counter(session.scalars(sa.select(Event.type)))
    assert events == {
        "job.succeeded": 1,
        "job.failed": 1,
        "job.cancelled": 6,
        "batch.completed": 1,
    }
    assert counts(database, batch_id) == (0, 0, 1, 1, 6)
    assert len(ids) == 8


def test_a_batch_can_be_cancelled_while_it_is_received(database: Database) -> None:
    tenant_id, batch_id, _ = made(database, 2, received=False)
    for _ in range(2):
        with database.transaction() as session:
            states.cancel_batch(session, tenant_id, batch_id)
    assert counts(database, batch_id) == (0, 0, 0, 0, 2)
    assert row(database, batch_id).completed_at is None
    with database.transaction() as session:
        states.close_batch(session, batch_id)
    assert row(database, batch_id).completed_at is not None


def test_cancelling_a_batch_is_private_and_comes_too_late_for_a_complete_one(database: Database) -> None:
    tenant_id, batch_id, _ = made(database, 1)
    with database.transaction() as session:
        other = add_tenant(session, "other").id
    with pytest.raises(NotFound), database.transaction() as session:
        states.cancel_batch(session, other, batch_id)
    assert counts(database, batch_id) == (1, 0, 0, 0, 0)
    with database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    with pytest.raises(Conflict), database.transaction() as session:
        states.cancel_batch(session, tenant_id, batch_id)
    assert row(database, batch_id).cancelled_at is None


def test_expired_jobs_complete_their_batch_and_are_counted(database: Database) -> None:
    _, batch_id, ids = made(database, 3)
    with database.transaction() as session:
        late = sa.update(Job).where(Job.id.in_(ids[1:])).values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        session.execute(late)
    with database.transaction() as session:
        (claim,) = take(session)
        states.finish(session, [answer(claim)], POLICY)
    with database.transaction() as session:
        assert sorted(states.expire(session, 10)) == ids[1:]
    assert counts(database, batch_id) == (0, 0, 1, 2, 0)
    batch = row(database, batch_id)
    assert batch.completed_at is not None
    assert batch.expired == 2


def test_a_batch_whose_client_went_away_is_cancelled_and_closed(database: Database) -> None:
    _, stalled, ids = made(database, 2, received=False)
    with database.transaction() as session:
        tenant = add_tenant(session)
        fresh = add_batch(session, tenant, total=1, received=False).id
        silent = sa.update(Batch).where(Batch.id == stalled).values(progress_at=sa.func.now() - timedelta(hours=2))
        session.execute(silent)
    with database.transaction() as session:
        assert states.close_stalled(session, timedelta(hours=1)) == stalled
    with database.transaction() as session:
        assert states.close_stalled(session, timedelta(hours=1)) is None
        assert [session.get_one(Job, job_id).state for job_id in ids] == [JobState.CANCELLED] * 2
    batch = row(database, stalled)
    assert batch.cancelled_at is not None
    assert batch.completed_at is not None
    assert row(database, fresh).received_at is None


def test_counts_are_exact_when_many_finish_at_once(database: Database) -> None:
    batches = [made(database, 40)[1] for _ in range(2)]

    def work(name: str) -> None:
        while True:
            with database.transaction() as session:
                claims = take(session, name, max_images=5)
            if not claims:
                return
            outcomes = [answer(claim) for claim in claims[1:]] + [Outcome(claims[0], error=CorruptImage())]
            with database.transaction() as session:
                assert states.finish(session, outcomes, POLICY) == []

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for batch_id in batches:
        queued, running, succeeded, failed, cancelled = counts(database, batch_id)
        assert (queued, running, succeeded + failed, cancelled) == (0, 0, 40, 0)
        assert row(database, batch_id).completed_at is not None
        with database.transaction() as session:
            failures = sa.select(sa.func.count()).where(Job.batch_id == batch_id, Job.state == JobState.FAILED)
            assert session.scalar(failures) == failed
            assert session.scalar(sa.select(sa.func.count()).where(Event.batch_id == batch_id)) == 1
