"""The same seed gives the same run, and a run is worth its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standalone.process import ROOT
from standalone.samples import read_samples
from tests.chaos.plan import asks_of, plan
from tests.chaos.schedule import CONTAINER_KINDS, KINDS, Fault, kinds, schedule
from tests.chaos.settings import QUICK, SHIPPED, Pace

ASKS = asks_of(read_samples(ROOT / "samples"))
seeds = st.integers(0, 2**32)
lengths = st.floats(0.2, 20)


@given(seeds, lengths)
def test_the_same_seed_gives_the_same_run(seed: int, minutes: float) -> None:
    assert schedule(seed, minutes, QUICK) == schedule(seed, minutes, QUICK)
    assert plan(seed, 40, minutes, ASKS) == plan(seed, 40, minutes, ASKS)


def test_another_seed_gives_another_run() -> None:
    assert schedule(1, 3, QUICK) != schedule(2, 3, QUICK)
    assert [s.asks for s in plan(1, 40, 3, ASKS)] != [s.asks for s in plan(2, 40, 3, ASKS)]


@given(seeds, lengths)
def test_faults_come_in_the_order_of_time_and_are_undone_before_the_end(seed: int, minutes: float) -> None:
    faults = schedule(seed, minutes, QUICK)
    assert all(earlier.at <= later.at for earlier, later in pairwise(faults))
    assert all(fault.until < minutes * 60 for fault in faults)


@given(seeds, lengths)
def test_no_victim_is_hit_while_it_is_down(seed: int, minutes: float) -> None:
    last: dict[str, Fault] = {}
    for fault in schedule(seed, minutes, QUICK):
        assert fault.victim not in last or last[fault.victim].until < fault.at
        last[fault.victim] = fault


@pytest.mark.parametrize("common", [KINDS, CONTAINER_KINDS], ids=["processes", "containers"])
@given(seed=seeds)
def test_ten_minutes_know_every_fault(common: Mapping[tuple[str, str], tuple[float, float]], seed: int) -> None:
    faults = schedule(seed, 10, SHIPPED, common)
    assert {(fault.kind, fault.victim) for fault in faults} == set(kinds(SHIPPED, common))


@pytest.mark.parametrize("pace", [QUICK, SHIPPED], ids=["quick", "shipped"])
@given(seed=seeds)
def test_a_worker_is_stopped_for_longer_than_its_lease(pace: Pace, seed: int) -> None:
    stops = [
        fault for fault in schedule(seed, 10, pace) if fault.kind == "SIGSTOP" and fault.victim in pace.classifiers
    ]
    assert stops
    assert all(fault.seconds > pace.lease_seconds for fault in stops)


@given(seeds, st.integers(1, 300))
def test_as_many_jobs_are_sent_as_were_asked_for_each_request_with_its_own_key(seed: int, jobs: int) -> None:
    planned = plan(seed, jobs, 3, ASKS)
    assert sum(len(submission.asks) for submission in planned) == jobs
    assert set(Counter(submission.key for submission in planned).values()) == {1}


@given(seeds)
def test_a_batch_has_one_classifier_and_one_file_a_study(seed: int) -> None:
    batches = [submission for submission in plan(seed, 200, 3, ASKS) if submission.batch]
    assert batches
    for batch in batches:
        assert len({(ask.classifier, ask.modality) for ask in batch.asks}) == 1
        assert all(len(ask.files) == 1 for ask in batch.asks)
