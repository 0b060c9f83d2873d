"""The count finds every way in which the promise can be broken."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from standalone.process import ROOT
from tests.chaos.clients import Fate
from tests.chaos.count import BatchRow, DeliveryRow, Findings, JobRow, Known, Rows, examine, recoveries
from tests.chaos.faults import Strike
from tests.chaos.plan import Ask, Submission
from tests.chaos.receiver import Receiver
from tests.chaos.schedule import Fault

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ASK = Ask((Path(ROOT / "samples" / "xray-normal.png"),), "xray", "binary")
SINGLE = Submission(at=0, key="one", asks=(ASK,), body="job", cancels=False, waits=False, repeats=False)
KNOWN = {ASK.identity: Known({"negative"}, {"negative": 0.9, "positive": 0.1})}
JOB = JobRow(
    id="job_1",
    key="one",
    state="succeeded",
    classifier=ASK.identity[0],
    files=ASK.identity[1],
    created_at=NOON,
    finished_at=NOON,
    error=None,
    prediction="negative",
    probabilities={"negative": 0.9, "positive": 0.1},
    results=1,
    events=1,
)
DELIVERY = DeliveryRow(
    event_id="evt_1", endpoint="steady", state="delivered", attempt_count=1, created_at=NOON, finished_at=NOON
)


def fate(submission: Submission = SINGLE, *ids: str, cancelled: bool = False) -> Fate:
    """A request that was answered with these ids."""
    return Fate(submission, ids=set(ids or ("job_1",)), statuses=[202], cancelled=cancelled)


def receiver(*accepted: str) -> Receiver:
    """One that has accepted these webhook-ids; it does not listen."""
    one = Receiver("steady")
    one.accepted.update(accepted or ("evt_1",))
    return one


def count(
    *jobs: JobRow, of: Fate | None = None, batches: tuple[BatchRow, ...] = (), delivery: DeliveryRow = DELIVERY
) -> Findings:
    """What is wrong with these rows."""
    return examine([of or fate()], Rows(jobs, batches, [delivery]), KNOWN, [receiver()])


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert count(JOB).all == []


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_that_never_ends_is_lost(state: str) -> None:
    assert count(replace(JOB, state=state, results=0, events=0)).lost


def test_a_job_without_a_row_is_lost() -> None:
    assert count().lost


def test_a_batch_that_lacks_a_job_is_lost() -> None:
    batch = replace(SINGLE, asks=(ASK, ASK), body="form")
    rows = (BatchRow(id="bat_1", key="one", completed_at=NOON, events=1),)
    assert count(JOB, of=fate(batch, "bat_1"), batches=rows).lost
    assert not count(JOB, replace(JOB, id="job_2"), of=fate(batch, "bat_1"), batches=rows).all


def test_two_jobs_for_one_key_are_doubled() -> None:
    assert count(JOB, replace(JOB, id="job_2")).doubled


def test_two_ids_for_one_key_are_doubled() -> None:
    assert count(JOB, of=fate(SINGLE, "job_1", "job_2")).doubled


@pytest.mark.parametrize("twice", [{"results": 2}, {"events": 2}])
def test_two_results_or_events_are_doubled(twice: dict[str, int]) -> None:
    assert count(replace(JOB, **twice)).doubled  # type: ignore[arg-type]


def test_an_end_that_is_told_under_two_ids_is_doubled() -> None:
    told = receiver()
    told.told["job_1"] = {"evt_1", "evt_2"}
    assert examine([fate()], Rows([JOB], [], [DELIVERY]), KNOWN, [told]).doubled


@pytest.mark.parametrize(
    "wrong",
    [
        {"prediction": "positive"},
        {"probabilities": {"negative": 0.8, "positive": 0.2}},
        {"results": 0},
        {"state": "failed"},
        {"files": ("somebody else's",), "state": "cancelled", "results": 0},
    ],
)
def test_another_answer_than_the_known_one_is_wrong(wrong: dict[str, object]) -> None:
    assert count(replace(JOB, **wrong)).wrong  # type: ignore[arg-type]


def test_a_cancellation_that_does_not_hold_is_wrong() -> None:
    assert count(JOB, of=fate(cancelled=True)).wrong


@pytest.mark.parametrize("state", ["pending", "failed", None])
def test_a_delivery_that_was_not_made_is_undelivered(state: str | None) -> None:
    assert count(JOB, delivery=replace(DELIVERY, state=state)).undelivered["steady"]


def test_a_delivery_that_nobody_accepted_is_undelivered() -> None:
    assert count(JOB, delivery=replace(DELIVERY, event_id="evt_9")).undelivered["steady"]


def test_an_end_without_an_event_is_undelivered() -> None:
    assert count(replace(JOB, events=0)).undelivered["steady"]


def test_a_request_without_an_answer_is_named() -> None:
    assert count(JOB, of=Fate(SINGLE)).unanswered


def test_the_recovery_of_a_fault_is_that_of_the_slowest_job_it_hit() -> None:
    strike = Strike(Fault(0, "SIGKILL", "classify", 1), NOON, {"job_1": "a", "job_2": "b"})
    jobs = [replace(JOB, id=f"job_{n}", finished_at=NOON + timedelta(seconds=n)) for n in (1, 2, 3)]
    assert recoveries([strike], Rows(jobs, [], []), "flaky") == {"SIGKILL classify": 2.0}


@pytest.mark.parametrize(("token", "seconds"), [("a", 30.0), ("b", 0.0)], ids=["still", "again"])
def test_a_job_that_was_taken_up_again_and_hit_again_counts_for_the_second_fault(token: str, seconds: float) -> None:
    first = Strike(Fault(0, "SIGKILL", "classify", 1), NOON, {"job_1": "a"})
    second = Strike(Fault(0, "SIGKILL", "postgres", 1), NOON + timedelta(seconds=20), {"job_1": token})
    rows = Rows([replace(JOB, finished_at=NOON + timedelta(seconds=30))], [], [])
    assert recoveries([first, second], rows, "flaky") == {"SIGKILL classify": seconds, "SIGKILL postgres": 10.0}


@pytest.mark.parametrize(("victim", "seconds"), [("api", 4.0), ("redis", 1.0), ("beat", 1.0)])
def test_what_runs_no_job_has_recovered_when_it_is_next_of_use(victim: str, seconds: float) -> None:
    strike = Strike(Fault(0, "SIGKILL", victim, 1), NOON, {"job_9": "a"})
    jobs = [replace(JOB, id=f"job_{n}", finished_at=NOON + timedelta(seconds=n)) for n in (9, 1)]
    jobs += [replace(JOB, id="job_2", created_at=NOON + timedelta(seconds=4), finished_at=None)]
    assert recoveries([strike], Rows(jobs, [], []), "flaky") == {f"SIGKILL {victim}": seconds}


def test_a_receiver_has_recovered_when_it_has_all_that_waited_for_it() -> None:
    strike = Strike(Fault(0, "hang", "receiver", 1), NOON, {}, ended=NOON + timedelta(seconds=10))
    late = replace(DELIVERY, endpoint="flaky", finished_at=NOON + timedelta(seconds=13))
    newer = replace(late, created_at=NOON + timedelta(seconds=11), finished_at=NOON + timedelta(seconds=30))
    assert recoveries([strike], Rows([], [], [DELIVERY, late, newer]), "flaky") == {"hang receiver": 3.0}
