"""Workers die, freeze, stop and have the wrong time: every accepted job is answered once all the same."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.chaos.system import System
from tests.support.faults import Hospital
from tests.support.waiting import EVENT_SECONDS, until

OTHER_CLOCK = Path(__file__).parents[2] / "chaos" / "other_clock"
KILL_SECONDS, MOST_KILLS = 2.0, 25
#: What the database holds of jobs and their results: a row that is written again gets another xmin.
WRITTEN = sa.text("""
    SELECT j.id, j.xmin::text, r.xmin::text FROM jobs j JOIN results r ON r.job_id = j.id
    WHERE j.id = ANY (:ids) ORDER BY j.id
""")
#: So many pictures a second make a batch of sixteen take two seconds.
SLOW = {"THORAQ_STAND_IN_RATE": "8"}


def test_workers_killed_every_two_seconds_over_a_thousand_jobs(system: System, hospital: Hospital) -> None:
    system.stack.stop("classify")
    ids = hospital.of_batch(hospital.submit_archive(1000), 1000)
    workers = [system.worker(name, THORAQ_STAND_IN_RATE="50") for name in ("one", "two", "three")]
    kills = 0
    # On a slow machine they would hardly get up between two kills; after so many they may get on.
    for worker in islice(cycle(workers), MOST_KILLS):
        victim = f"{worker.name}@%"
        # One that holds nothing would not notice: it is waited for.
        holds = "SELECT count(*) FROM jobs WHERE state = 'running' AND worker LIKE :victim"
        until(lambda: hospital.all_ended(ids) or hospital.count(holds, victim=victim))  # noqa: B023 - not kept
        if hospital.all_ended(ids):
            break
        worker.kill()
        kills += 1
        worker.start()
        time.sleep(KILL_SECONDS)
    hospital.assert_each_answered_once(ids)
    assert kills >= 5
    assert hospital.count("SELECT count(*) FROM jobs WHERE alone AND id = ANY (:ids)", ids=ids) >= kills


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_goes_on(system: System, hospital: Hospital) -> None:
    system.stack.stop("classify")
    ids = hospital.ids(12)
    frozen = system.worker("frozen", **SLOW)
    until(lambda: hospital.running(ids))
    time.sleep(0.5)  # they are with the engine by now, which takes longer than that for them
    held = "SELECT count(*) FROM jobs WHERE state = 'running' AND worker LIKE 'frozen@%'"
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        assert hospital.count(held), "it was frozen too late: nothing was on lease"
        system.stack.start("classify")
        hospital.assert_each_answered_once(ids)
        with hospital.database.connect() as connection:
            written = connection.execute(WRITTEN, {"ids": ids}).all()
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: b'"lease_lost": ["job_' in frozen.log.read_bytes())
    with hospital.database.connect() as connection:
        assert connection.execute(WRITTEN, {"ids": ids}).all() == written
    hospital.assert_each_answered_once(ids)


def test_a_worker_frozen_past_its_lease_does_not_answer_for_who_took_over(system: System, hospital: Hospital) -> None:
    system.stack.stop("classify")
    ids = hospital.ids(3)
    frozen = system.worker("frozen", THORAQ_STAND_IN_RATE="2")
    until(lambda: hospital.running(ids))
    time.sleep(0.5)  # with the engine, for another second
    os.kill(frozen.pid, signal.SIGSTOP)
    taken = "SELECT count(*) FROM jobs WHERE state = 'running' AND worker LIKE 'heir@%'"
    try:
        heir = system.worker("heir", THORAQ_STAND_IN_RATE="0.1")
        until(lambda: hospital.count(taken))
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: b'"lease_lost": ["job_' in frozen.log.read_bytes())
    assert hospital.count(taken), "the late answer ended a job of somebody else"
    heir.kill()
    system.stack.start("classify")
    hospital.assert_each_answered_once(ids)


def test_a_worker_told_to_stop_gives_back_what_it_has_not_run(system: System, hospital: Hospital) -> None:
    system.stack.stop("classify")
    ids = hospital.ids(40)
    stopped = system.worker("stopped", **SLOW)
    until(lambda: hospital.count("SELECT count(*) FROM results WHERE job_id = ANY (:ids)", ids=ids))
    stopped.ask_to_stop()
    assert stopped.wait_stopped(EVENT_SECONDS)
    assert hospital.running(ids) == 0
    assert not hospital.all_ended(ids), "it was stopped too late: all was done"
    tried = "SELECT count(*) FROM jobs WHERE id = ANY (:ids) AND (alone OR error_attempts + crash_attempts > 0)"
    assert hospital.count(tried, ids=ids) == 0
    system.stack.start("classify")
    hospital.assert_each_answered_once(ids)


@pytest.mark.parametrize("hours", [1, -1], ids=["fast", "slow"])
def test_a_worker_whose_clock_is_an_hour_off(system: System, hospital: Hospital, hours: int) -> None:
    system.stack.stop("classify")
    ids = hospital.ids(24)
    clock = {"PYTHONPATH": str(OTHER_CLOCK), "CLOCK_AHEAD_SECONDS": str(hours * 3600)}
    dreamer = system.worker("dreamer", **SLOW, **clock)
    until(lambda: hospital.running(ids))
    odd = "SELECT count(*) FROM jobs WHERE state = 'running' AND abs(extract(epoch FROM lease_until - now())) > 7"
    assert hospital.count(odd) == 0
    hospital.assert_each_answered_once(ids)
    # Its leases were as good as anybody's: nothing was taken away from it, and its rows have the right time.
    late = """
        SELECT count(*) FROM jobs WHERE id = ANY (:ids)
        AND (alone OR finished_at NOT BETWEEN now() - interval '5 minutes' AND now() + interval '1 second')
    """
    assert hospital.count(late, ids=ids) == 0
    assert b"Discarding" not in dreamer.log.read_bytes(), "it took a doorbell for one of an hour ago"
    assert hours_ahead(dreamer.log) == pytest.approx(hours, abs=0.1), "its clock was right"


def hours_ahead(log: Path) -> float:
    """How far the clock of the last line of a log is from ours."""
    times = re.findall(r'"timestamp": "([^"]+)Z"', log.read_text(encoding="utf-8"))
    return (datetime.fromisoformat(times[-1]).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() / 3600
