"""Jobs whose files take long to decode: others are not held up, a budget ends them, and so does a cancellation."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest
import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Image, Job, JobState, Priority
from shared.jobs import states
from shared.storage import object_key
from tests.support.decoders import decoders as every_decoder
from tests.support.files.costly import black_pages
from tests.support.rows import add_job, add_tenant
from tests.support.waiting import EVENT_SECONDS, until
from tests.support.worker_drain import Counting, drain, every_job, put
from worker.classify import slow_jobs
from worker.classify.fake_predictor import StandIn, stand_in
from worker.classify.handler import Classify

#: Without a budget it would be decoded for a minute, or for several on a busy machine.
SLOW = black_pages(120)


class Shown(StandIn):
    """A stand-in for the engine that wants pixels."""

    def __init__(self) -> None:
        super().__init__(stand_in(0).bundle, needs_pixels=True, rate=0)


@pytest.fixture
def predictor() -> Shown:
    return Shown()


@pytest.fixture
def strict(settings: Settings) -> Settings:
    """A few CPU seconds for a file, so that a job is late, and ends."""
    return settings.model_copy(update={"decode_cpu_seconds": 2.0, "decode_threads": 1})


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """More CPU time than any test has."""
    return settings.model_copy(update={"decode_cpu_seconds": 10_000.0, "decode_threads": 1})


def queue_slow(database: Database, storage: Counting, name: str, count: int = 1, images: int = 1) -> list[str]:
    """Jobs of a tenant about files that take long."""
    with database.transaction() as session:
        tenant = add_tenant(session, name)
        ids = [add_job(session, tenant, images=images).id for _ in range(count)]
        for image in session.scalars(sa.select(Image).where(Image.tenant_id == tenant.id)):
            stored = storage.put(object_key(tenant.id), io.BytesIO(SLOW))
            image.object_key, image.sha256 = stored.key, stored.sha256
    return ids


def queue_quick(database: Database, storage: Counting, name: str, priority: Priority = Priority.ROUTINE) -> str:
    """A job of another tenant about a small picture; before any slow one is queued."""
    with database.transaction() as session:
        job_id = add_job(session, add_tenant(session, name), priority=priority).id
    put(database, storage, (200,))
    return job_id


@pytest.fixture
def decoders() -> Callable[[], list[psutil.Process]]:
    """The decoders that this test has started: an earlier test's end when its worker is collected."""
    earlier = {decoder.pid for decoder in every_decoder()}
    return lambda: [decoder for decoder in every_decoder() if decoder.pid not in earlier]


def state_of(database: Database, job_id: str) -> JobState:
    with database.transaction() as session:
        return session.scalars(sa.select(Job.state).where(Job.id == job_id)).one()


def test_a_slow_job_ends_by_its_budget_and_after_those_of_others(
    strict: Settings, clean_database: Database, storage: Counting, predictor: Shown
) -> None:
    quick = [queue_quick(clean_database, storage, name) for name in ("north", "south")]
    (slow,) = queue_slow(clean_database, storage, "west")
    with clean_database.transaction() as session:  # it has waited for longer than they have
        session.execute(sa.update(Job).where(Job.id == slow).values(queued_at=sa.text("now() - interval '1 hour'")))

    drain(strict, clean_database, storage, predictor)

    with every_job(clean_database) as found:
        assert [found[job_id].state for job_id in quick] == [JobState.SUCCEEDED] * 2
        job = found[slow]
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error["type"] == "too-costly"
        assert "More than 2.0 s of CPU time" in job.error["detail"]
        assert all((found[job_id].finished_at or 0) < (job.finished_at or 0) for job_id in quick)  # type: ignore[operator]
        assert (job.error_attempts, job.crash_attempts) == (0, 0)


@pytest.fixture
def draining(
    patient: Settings, clean_database: Database, storage: Counting, predictor: Shown
) -> Iterator[Callable[[], tuple[threading.Thread, threading.Event]]]:
    """Begin to drain in a thread; at the end it is told to stop, and does."""
    stopping = threading.Event()
    thread = threading.Thread(
        target=lambda: Classify("worker", patient, clean_database, storage, predictor).drain(stopping)
    )

    def begin() -> tuple[threading.Thread, threading.Event]:
        thread.start()
        return thread, stopping

    yield begin
    stopping.set()
    if thread.ident is not None:
        thread.join(EVENT_SECONDS)
        assert not thread.is_alive()


def test_others_that_come_while_a_job_is_slow_are_run_before_it(
    clean_database: Database,
    storage: Counting,
    draining: Callable[[], object],
    decoders: Callable[[], list[psutil.Process]],
) -> None:
    stat = queue_quick(clean_database, storage, "north", Priority.STAT)
    with clean_database.transaction() as session:  # it comes later
        session.execute(sa.update(Job).where(Job.id == stat).values(not_before=sa.text("now() + interval '1 hour'")))
    (slow,) = queue_slow(clean_database, storage, "west")
    draining()
    until(decoders)
    with clean_database.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == stat).values(not_before=None))
    until(lambda: state_of(clean_database, stat) is JobState.SUCCEEDED)
    assert state_of(clean_database, slow) is JobState.RUNNING


def test_a_cancelled_job_is_not_decoded_further(
    clean_database: Database,
    storage: Counting,
    draining: Callable[[], tuple[threading.Thread, threading.Event]],
    decoders: Callable[[], list[psutil.Process]],
) -> None:
    """The drain ends because nothing is left to do: the decoder would go on for a minute."""
    (slow,) = queue_slow(clean_database, storage, "west")
    thread, _ = draining()
    until(decoders)
    with clean_database.transaction() as session:
        tenant_id = session.scalars(sa.select(Job.tenant_id).where(Job.id == slow)).one()
        states.cancel(session, tenant_id, slow)
    thread.join(EVENT_SECONDS)
    assert not thread.is_alive()
    until(lambda: not decoders())
    assert state_of(clean_database, slow) is JobState.CANCELLED


def test_a_worker_that_stops_gives_a_slow_job_back(
    clean_database: Database,
    storage: Counting,
    draining: Callable[[], tuple[threading.Thread, threading.Event]],
    decoders: Callable[[], list[psutil.Process]],
) -> None:
    (slow,) = queue_slow(clean_database, storage, "west")
    thread, stopping = draining()
    until(decoders)
    stopping.set()
    thread.join(EVENT_SECONDS)
    assert not thread.is_alive()
    with every_job(clean_database) as found:
        job = found[slow]
        assert (job.state, job.lease_token, job.error_attempts, job.crash_attempts) == (JobState.QUEUED, None, 0, 0)
        assert not job.isolated


def test_a_tenant_whose_jobs_are_all_slow_gets_no_more_of_them_in_a_worker(
    clean_database: Database,
    storage: Counting,
    draining: Callable[[], object],
    decoders: Callable[[], list[psutil.Process]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else they would be held on lease by the hundred, in memory, while nobody gets to them."""
    monkeypatch.setattr(slow_jobs, "MOST_OF_A_TENANT", 2)
    other = queue_quick(clean_database, storage, "north")
    with clean_database.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == other).values(not_before=sa.text("now() + interval '1 hour'")))
    ids = queue_slow(clean_database, storage, "west", count=40)
    draining()
    until(decoders)
    with clean_database.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == other).values(not_before=None))
    until(lambda: state_of(clean_database, other) is JobState.SUCCEEDED)
    with every_job(clean_database) as found:
        running = [job_id for job_id in ids if found[job_id].state is JobState.RUNNING]
    assert 0 < len(running) <= 16  # one claim's worth


def test_all_files_of_a_job_have_one_budget(
    settings: Settings, clean_database: Database, storage: Counting, predictor: Shown
) -> None:
    """Each file is within its own; together they are more than anybody else's turn."""
    tight = settings.model_copy(update={"decode_cpu_seconds": 2.0, "decode_cpu_seconds_per_mb": 0, "decode_threads": 1})
    data = black_pages(2)
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        job_id = add_job(session, tenant, images=30).id
        for image in session.scalars(sa.select(Image)):
            stored = storage.put(object_key(tenant.id), io.BytesIO(data))
            image.object_key, image.sha256 = stored.key, stored.sha256

    drain(tight, clean_database, storage, predictor)

    with every_job(clean_database) as found:
        job = found[job_id]
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error["type"] == "too-costly"
        assert "of the job's 30 files" in job.error["detail"]
    assert len(storage.fetched) < 30
