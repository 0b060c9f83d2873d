"""A worker's threads: what is under way when it stops, when a write hangs, when a stat study comes in, in two lanes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Image, Job, JobState, Priority, Result, Tenant
from shared.inference.engine import Pixels
from shared.jobs import states
from tests.support.rows import add_job, add_tenant, wait_for_a_lock
from tests.support.waiting import EVENT_SECONDS
from tests.support.worker_drain import Counting, drain, every_job, put, queue
from worker.classify.fake_predictor import StandIn, stand_in
from worker.classify.handler import Classify
from worker.classify.predictor import ImageRequest, Prediction, RawOutputs, RejectedImage
from worker.classify.prefetch import MOST_BATCHES, STAT_CLAIMS

SIZE = 8


class Watched(StandIn):
    """A stand-in that notes how many images it was shown, and does something before each inference."""

    def __init__(self, act: Callable[[int], None] = lambda _: None, lanes: int = 1) -> None:
        super().__init__(stand_in(0).bundle, needs_pixels=True, rate=0)
        self.sizes: list[int] = []
        self.beside: list[bool] = []
        self.lanes = lanes
        self._act, self._numbers = act, count(1)

    def infer(self, images: Pixels, requests: Sequence[ImageRequest], *, beside: bool = False) -> RawOutputs:
        self.sizes.append(len(images))
        self.beside.append(beside)
        self._act(next(self._numbers))
        return super().infer(images, requests, beside=beside)


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Batches of eight images."""
    return settings.model_copy(update={"batch_size": SIZE})


def count_states(database: Database) -> dict[JobState, int]:
    """How many jobs are in each state."""
    with database.transaction() as session:
        return {row.state: row.jobs for row in session.execute(COUNTS)}


COUNTS = sa.select(Job.state, sa.func.count().label("jobs")).group_by(Job.state)


def test_a_long_backlog_is_answered_once_each_in_batches_across_tenants(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    with clean_database.transaction() as session:
        tenants = [add_tenant(session, name) for name in ("north", "south")]
        ids = [add_job(session, tenant).id for _ in range(40) for tenant in tenants]
    put(clean_database, storage, (40, 200))
    predictor = Watched()
    drain(small, clean_database, storage, predictor)
    assert predictor.sizes == [SIZE] * (len(ids) // SIZE)
    assert sorted(storage.fetched) == sorted(set(storage.fetched))
    with clean_database.transaction() as session:
        results = session.scalars(sa.select(Result)).all()
    assert sorted(result.job_id for result in results) == sorted(ids)
    # Each picture's left half is half as bright as its right one.
    said = {result.job_id: (result.probabilities or {})["covid19"] for result in results}
    expected = {job_id: pytest.approx(0.75 * (40, 200)[place % 2] / 255, abs=1e-3) for place, job_id in enumerate(ids)}
    assert said == expected


def test_one_tenants_stat_does_not_keep_anothers_routine_study_waiting(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    with clean_database.transaction() as session:
        north, south = (add_tenant(session, name) for name in ("north", "south"))
        session.execute(sa.update(Tenant).values(stat_share=1_000))
        for _ in range(STAT_CLAIMS * MOST_BATCHES + 4):
            add_job(session, north, images=SIZE, priority=Priority.STAT)
        routine = add_job(session, south).id
    put(clean_database, storage, (40, 200))
    drain(small, clean_database, storage, Watched())
    with every_job(clean_database) as found:
        began = sorted((job.started_at or job.created_at, job.id) for job in found.values())
    assert [job_id for _, job_id in began].index(routine) <= STAT_CLAIMS * MOST_BATCHES


def test_what_was_run_is_written_and_the_rest_given_back_when_the_worker_stops(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    queue(clean_database, storage, count=40)
    stopping = threading.Event()
    predictor = Watched(lambda number: stopping.set() if number == 2 else None)
    Classify("worker", small, clean_database, storage, predictor).drain(stopping)
    assert predictor.sizes == [SIZE, SIZE]
    assert count_states(clean_database) == {JobState.SUCCEEDED: 2 * SIZE, JobState.QUEUED: 40 - 2 * SIZE}
    with clean_database.transaction() as session:
        spent = session.scalar(sa.select(sa.func.sum(Job.error_attempts + Job.crash_attempts)))
    assert spent == 0


def test_a_large_study_is_given_back_in_its_middle_when_the_worker_stops(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    (job_id,) = queue(clean_database, storage, count=1, images=2 * MOST_BATCHES * SIZE)
    stopping = threading.Event()
    predictor = Watched(lambda number: stopping.set() if number == 2 else None)
    Classify("worker", small, clean_database, storage, predictor).drain(stopping)
    assert predictor.sizes == [SIZE] * MOST_BATCHES
    with every_job(clean_database) as found:
        job = found[job_id]
        assert (job.state, job.error_attempts, job.crash_attempts, job.isolated) == (JobState.QUEUED, 0, 0, False)


def test_while_a_write_hangs_the_engine_goes_on_and_every_lease_is_kept(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    queue(clean_database, storage, count=2 * SIZE)
    ahead, on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as worker, clean_database.transaction() as holder:

        def act(number: int) -> None:
            if number == 1:
                lock_some_running_job(holder)
            else:
                ahead.set()
                assert on.wait(EVENT_SECONDS)

        handler = Classify("worker", small, clean_database, storage, Watched(act))
        drained = worker.submit(handler.drain, threading.Event())
        assert ahead.wait(EVENT_SECONDS)
        wait_for_a_lock(clean_database)
        before = leases(clean_database)
        handler.beat()
        after = leases(clean_database)
        holder.rollback()
        on.set()
        drained.result(30)
    assert len(before) == len(after) == 2 * SIZE
    assert sum(after[job_id] > before[job_id] for job_id in before) >= SIZE
    # The lock was on a row of the hung write: that lease, too, was held on to.
    assert count_states(clean_database) == {JobState.SUCCEEDED: 2 * SIZE}


def leases(database: Database) -> dict[str, datetime]:
    """Until when each running job is on lease."""
    running = sa.select(Job.id, Job.lease_until).where(Job.state == JobState.RUNNING)
    with database.transaction() as session:
        return {row.id: row.lease_until for row in session.execute(running) if row.lease_until}


def lock_some_running_job(session: Session) -> None:
    """Until the session ends. The first batch is the only one that is certain to be claimed by its inference."""
    session.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    first = sa.select(Job.id).where(Job.state == JobState.RUNNING).order_by(Job.started_at, Job.id).limit(1)
    session.execute(sa.select(Job.id).where(Job.id == first.scalar_subquery()).with_for_update()).one()


def test_a_write_that_fails_ends_the_drain_and_lets_its_leases_run_out(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    queue(clean_database, storage, count=4 * SIZE)

    class Broken(Watched):
        def infer(self, images: Pixels, requests: Sequence[ImageRequest], *, beside: bool = False) -> RawOutputs:
            seen = super().infer(images, requests, beside=beside)
            return seen if len(self.sizes) > 1 else Unspeakable()

    class Unspeakable:
        def predictions(self, *, heatmaps: bool) -> list[Prediction | RejectedImage]:  # noqa: ARG002 - of RawOutputs
            raise RuntimeError("a bug")

    handler = Classify("worker", small, clean_database, storage, Broken())
    with pytest.raises(RuntimeError, match="a bug"):
        handler.drain(threading.Event())
    with clean_database.transaction() as session:
        abandoned = session.scalars(sa.select(Job.id).where(Job.state == JobState.RUNNING)).all()
        session.execute(sa.update(Job).where(Job.id.in_(abandoned)).values(lease_until=sa.func.now()))
    assert len(abandoned) == SIZE
    # The batch that ran meanwhile is none the worse for it.
    assert count_states(clean_database)[JobState.SUCCEEDED] >= SIZE
    handler.beat()
    with clean_database.transaction() as session:
        assert sorted(states.rescue(session, 3)[0]) == sorted(abandoned)


def test_a_stat_study_waits_for_the_batch_that_runs_and_shares_its_own_with_no_bulk(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    with clean_database.transaction() as session:
        bulk = add_tenant(session, "archive")
        for _ in range(8 * SIZE):
            add_job(session, bulk, priority=Priority.BULK)
    put(clean_database, storage, (200,))

    def act(number: int) -> None:
        if number == 1:
            wait_for_state(clean_database, send_stat(clean_database, bulk.id), JobState.RUNNING)

    predictor = Watched(act)
    drain(small, clean_database, storage, predictor)
    assert predictor.sizes == [SIZE, 1] + [SIZE] * 7
    assert count_states(clean_database) == {JobState.SUCCEEDED: 8 * SIZE + 1}


def send_stat(database: Database, other_tenant_id: str) -> str:
    """A stat job of a clinic, about a picture that the other tenant has stored."""
    with database.transaction() as session:
        job = add_job(session, add_tenant(session, "clinic"), priority=Priority.STAT)
        some = session.scalars(sa.select(Image).where(Image.tenant_id == other_tenant_id)).first()
        image = session.scalars(sa.select(Image).where(Image.study_id == job.study_id)).one()
        assert some is not None
        image.object_key, image.sha256 = some.object_key, some.sha256
    return job.id


def wait_for_state(database: Database, job_id: str, state: JobState) -> None:
    """Until the job is in that state."""
    deadline = time.monotonic() + EVENT_SECONDS
    while time.monotonic() < deadline:
        with database.transaction() as session:
            if session.scalar(sa.select(Job.state).where(Job.id == job_id)) is state:
                return
        time.sleep(0.01)
    raise AssertionError(f"never {state.value}")


def test_while_the_engine_is_busy_the_next_batch_takes_in_what_comes(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    ids = queue(clean_database, storage, count=5)
    hold_back(clean_database, ids[1:])

    def act(number: int) -> None:
        for job_id in ids[1:] if number == 1 else ():
            let_in(clean_database, job_id)
            wait_for_state(clean_database, job_id, JobState.RUNNING)

    predictor = Watched(act)
    drain(small, clean_database, storage, predictor)
    assert predictor.sizes == [1, 4]


def hold_back(database: Database, job_ids: Sequence[str]) -> None:
    """Keep the jobs from being claimed for now."""
    with database.transaction() as session:
        later = sa.func.now() + timedelta(hours=1)
        session.execute(sa.update(Job).where(Job.id.in_(job_ids)).values(not_before=later))


def let_in(database: Database, job_id: str, *, isolated: bool = False) -> None:
    """The job may be claimed now."""
    with database.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(not_before=None, isolated=isolated))


@pytest.mark.parametrize(
    ("first", "isolated", "sizes"),
    [(3, False, [4]), (3, True, [3, 1]), (1, False, [1, 1])],
    ids=["the rest of a burst", "one that runs alone", "two that come by themselves"],
)
def test_a_batch_waits_for_the_rest_of_a_burst(
    small: Settings, clean_database: Database, storage: Counting, first: int, isolated: bool, sizes: list[int]
) -> None:
    ids = queue(clean_database, storage, count=first + 1)
    hold_back(clean_database, ids[-1:])
    came = threading.Event()

    class Surprised(Counting):
        """One job more comes in while the first ones are fetched."""

        def get(self, key: str, expect_sha256: str | None = None) -> bytes:
            if not came.is_set():
                came.set()
                let_in(clean_database, ids[-1], isolated=isolated)
            return super().get(key, expect_sha256=expect_sha256)

    predictor = Watched()
    drain(small, clean_database, Surprised(storage.root), predictor)
    assert predictor.sizes == sizes
    with every_job(clean_database) as found:
        assert {job.state for job in found.values()} == {JobState.SUCCEEDED}


def test_a_fast_engine_is_given_several_batches_at_once(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    queue(clean_database, storage, count=8 * SIZE)
    started = sa.select(sa.func.count(sa.distinct(Job.started_at)))

    def claims(predictor: Watched) -> int:
        with clean_database.transaction() as session:
            session.execute(sa.delete(Result))
            session.execute(sa.text("SET LOCAL session_replication_role = replica"))
            session.execute(sa.update(Job).values(state=JobState.QUEUED, finished_at=None, force=True))
        drain(small, clean_database, storage, predictor)
        assert predictor.sizes == [SIZE] * 8
        with clean_database.transaction() as session:
            return session.scalar(started) or 0

    assert claims(Watched(lambda _: time.sleep(0.1))) == 8
    assert claims(Watched()) < 8


def running(database: Database) -> set[str]:
    """The jobs that are on lease."""
    with database.transaction() as session:
        return set(session.scalars(sa.select(Job.id).where(Job.state == JobState.RUNNING)))


def test_a_lane_that_is_free_takes_from_the_next_batch_while_the_other_is_at_work(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    ids = queue(clean_database, storage, count=3 * SIZE)
    others_are_done = threading.Event()

    def act(number: int) -> None:
        if number == 1:
            assert others_are_done.wait(EVENT_SECONDS)
        elif number == 4:  # the second batch's second part
            others_are_done.set()

    predictor = Watched(act, lanes=2)
    drain(small, clean_database, storage, predictor)
    assert predictor.sizes == [SIZE // 2] * 6
    assert count_states(clean_database) == {JobState.SUCCEEDED: len(ids)}


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [1, 1]), (5, [3, 2]), (SIZE, [SIZE // 2] * 2)])
def test_what_does_not_fill_a_batch_is_shared_among_the_lanes(
    small: Settings, clean_database: Database, storage: Counting, count: int, sizes: list[int]
) -> None:
    """Each lane has its own cores: one with all of it would leave the others' idle. One image alone has all cores."""
    queue(clean_database, storage, count=count)
    predictor = Watched(lanes=2)
    drain(small, clean_database, storage, predictor)
    assert sorted(predictor.sizes, reverse=True) == sizes
    assert predictor.beside == [count > 1] * len(sizes)


def test_a_look_that_hangs_is_not_hidden_by_the_other_lane(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    queue(clean_database, storage, count=2 * SIZE)
    over = threading.Event()
    got_on: list[float] = []

    def act(number: int) -> None:
        if number == 1:
            assert over.wait(EVENT_SECONDS)
        else:
            got_on.append(handler.progress)
            if number == 3:
                over.set()

    handler = Classify("worker", small, clean_database, storage, Watched(act, lanes=2))
    handler.drain(threading.Event())
    assert got_on[0] == got_on[1] < handler.progress


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_job_that_runs_alone_has_no_other_on_lease_beside_it(
    small: Settings, clean_database: Database, storage: Counting, lanes: int
) -> None:
    """Or those that are claimed ahead, or written behind, would pay for its crashes with their own attempts."""
    ids = queue(clean_database, storage, count=3 * SIZE)
    isolated = set(ids[1:6:2])
    with clean_database.transaction() as session:
        session.execute(sa.update(Job).where(Job.id.in_(isolated)).values(isolated=True, rank=Priority.STAT.rank))
    leases: list[set[str]] = []

    def act(_: int) -> None:
        time.sleep(0.1)  # what would be claimed ahead is, by then
        leases.append(running(clean_database))

    drain(small, clean_database, storage, Watched(act, lanes))
    assert count_states(clean_database) == {JobState.SUCCEEDED: 3 * SIZE}
    assert [held for held in leases if held & isolated] == [{job_id} for job_id in sorted(isolated)]


def test_jobs_that_run_alone_are_not_overtaken_for_ever(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    """Whoever runs alone waits until the engine has nothing else; a backlog would never leave it so."""
    ids = queue(clean_database, storage, count=10 * SIZE)

    def act(number: int) -> None:
        if number == 1:
            with clean_database.transaction() as session:
                late = sa.and_(Job.id == ids[-1], Job.state == JobState.QUEUED)
                session.execute(sa.update(Job).where(late).values(isolated=True, rank=Priority.STAT.rank))

    drain(small, clean_database, storage, Watched(act))
    with every_job(clean_database) as found:
        order = sorted(found.values(), key=lambda job: job.started_at or job.queued_at)
        assert [job.id for job in order].index(ids[-1]) < 7 * SIZE


def test_while_a_look_hangs_nothing_beside_it_counts_as_progress(
    small: Settings, clean_database: Database, storage: Counting
) -> None:
    queue(clean_database, storage, count=2 * SIZE)
    seen: list[float] = []

    def act(number: int) -> None:
        if number == 1:
            began = time.monotonic()
            while len(storage.fetched) < 2 * SIZE:  # the next batch is loaded meanwhile
                assert time.monotonic() < began + EVENT_SECONDS
                time.sleep(0.01)
            time.sleep(0.1)
            seen.append(began - handler.progress)

    handler = Classify("worker", small, clean_database, storage, Watched(act))
    handler.drain(threading.Event())
    assert seen[0] > -0.05
