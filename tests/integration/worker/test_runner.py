"""The runner of a worker process: doorbells, polls, and the sign of life, on a real database."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Worker
from shared.errors import EngineError, Unavailable
from tests.support.waiting import EVENT_SECONDS, until
from worker.runner import QueueRunner, Serving, report_problem


class Work:
    """A handler whose drains the test sees, and may hold."""

    serving: Serving | None = None

    def __init__(self) -> None:
        self.progress = time.monotonic()
        self.drains = self.beats = 0
        self.fault: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def drain(self, stopping: threading.Event) -> None:
        """Counts, waits to be let go, and meets its fault."""
        self.drains += 1
        self.go_on.wait(EVENT_SECONDS)
        if self.fault is not None and not stopping.is_set():
            raise self.fault

    def beat(self) -> None:
        """Counts: nothing is on lease."""
        self.beats += 1


class Reloader:
    """Has checked for a handler, and has a problem with its model."""

    problem: str | None = "card.json: missing"

    def __init__(self) -> None:
        self.seen: list[object] = []

    def check(self, handler: object) -> None:
        """Counts, and meets a fault."""
        self.seen.append(handler)
        raise Unavailable


def runner(work: Work, database: Database, settings: Settings, **seconds: float) -> QueueRunner:
    """A runner that polls and beats by itself only when told so."""
    quiet = {"poll_seconds": 3600.0, "heartbeat_seconds": 3600.0} | seconds
    return QueueRunner("w", "sweep", work, database, settings.model_copy(update=quiet))


def test_a_doorbell_during_a_drain_is_not_lost_and_does_not_wait(clean_database: Database, settings: Settings) -> None:
    work = Work()
    work.go_on.clear()
    door = runner(work, clean_database, settings)
    busy = threading.Thread(target=door.work)
    busy.start()
    until(lambda: work.drains == 1)
    for _ in range(3):
        door.work()  # returns although the drain goes on
    work.go_on.set()
    busy.join()
    assert work.drains == 2  # once more, however often the bell rang


def test_it_looks_by_itself(clean_database: Database, settings: Settings) -> None:
    work = Work()
    door = runner(work, clean_database, settings, poll_seconds=0.01)
    door.open()
    until(lambda: work.drains >= 3)
    door.close()


@pytest.mark.parametrize("fault", [EngineError("passing"), RuntimeError("a bug")])
def test_a_failed_drain_does_not_end_the_looking(
    clean_database: Database, settings: Settings, fault: Exception
) -> None:
    work = Work()
    work.fault = fault
    door = runner(work, clean_database, settings, poll_seconds=0.01)
    door.open()
    until(lambda: work.drains >= 3)
    door.close()


def test_it_says_which_engine_answers_and_why_others_do_not(clean_database: Database, settings: Settings) -> None:
    work = Work()
    work.serving = Serving("ab" * 32, "openvino-float32", "openvino-int8 not taken: 14.2 images/s")
    door = runner(work, clean_database, settings)
    door.open()
    with clean_database.transaction() as session:
        worker = session.scalars(sa.select(Worker)).one()
        assert (worker.bundle_sha256, worker.engine, worker.engine_reason) == work.serving
    report_problem(clean_database, "w", worker.queue, "it ended")
    with clean_database.transaction() as session:
        worker = session.scalars(sa.select(Worker)).one()
        assert (worker.bundle_sha256, worker.engine, worker.engine_reason) == (None, None, None)
    door.close()


def test_it_signs_on_and_off(clean_database: Database, settings: Settings) -> None:
    door = runner(Work(), clean_database, settings)
    door.open()
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Worker.name)).all() == ["w"]
    door.close()
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Worker.name)).all() == []


def test_it_gives_signs_of_life_until_what_is_under_way_is_done(clean_database: Database, settings: Settings) -> None:
    work = Work()
    work.go_on.clear()
    door = runner(work, clean_database, settings, heartbeat_seconds=0.01)
    door.open()
    busy = threading.Thread(target=door.work)
    busy.start()
    until(lambda: work.drains == 1)
    closing = threading.Thread(target=door.close)
    closing.start()
    beats = work.beats
    until(lambda: work.beats > beats + 3)
    work.go_on.set()
    busy.join()
    closing.join()
    beats = work.beats
    time.sleep(0.1)
    assert work.beats == beats
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Worker.name)).all() == []


def test_what_keeps_a_worker_from_its_model_is_reported_and_checked_again(
    clean_database: Database, settings: Settings
) -> None:
    work, reloader = Work(), Reloader()
    quick = settings.model_copy(update={"poll_seconds": 0.01, "heartbeat_seconds": 3600.0})
    door = QueueRunner("w", "sweep", work, clean_database, quick, reloader)
    door.open()
    until(lambda: len(reloader.seen) >= 3)
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Worker.bundle_problem)).all() == ["card.json: missing"]
    door.close()
    assert set(reloader.seen) == {work}


def test_a_worker_that_gets_nowhere_gives_no_sign_of_life(clean_database: Database, settings: Settings) -> None:
    work = Work()
    work.go_on.clear()
    door = runner(work, clean_database, settings, heartbeat_seconds=0.01, progress_seconds=0.3)
    door.open()
    busy = threading.Thread(target=door.work)
    busy.start()
    seen = sa.select(Worker.seen_at)
    time.sleep(0.6)  # past progress_seconds
    with clean_database.transaction() as session:
        last = session.scalars(seen).one()
    time.sleep(0.2)  # twenty heartbeats, if there were any
    with clean_database.transaction() as session:
        assert session.scalars(seen).one() == last
    work.go_on.set()
    busy.join()
    door.close()
