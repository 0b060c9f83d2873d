"""A worker's drain on a real database, store and bundle, with the faults that an engine can have."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from shared import jobs
from shared.bundle import Bundle
from shared.config import Settings
from shared.db import Database
from shared.errors import EngineError
from shared.models import Image, Job, JobState, Result
from shared.storage import Storage, object_key, open_storage
from tests.queue_support import add_job, add_tenant
from worker.classify import Classify
from worker.engine import Engine, Pixels, Probabilities, TensorFlowEngine

ROOT = Path(__file__).parents[2]
BUNDLE = Bundle.open(ROOT / "models" / "thoraq-1")


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The shipped bundle on TensorFlow."""
    return TensorFlowEngine(BUNDLE, max_batch=16)


class Faulty:
    """An engine that meets a fault."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def predict(self, images: Pixels, heads: Collection[str]) -> dict[str, Probabilities]:  # noqa: ARG002 - Engine's
        """The fault."""
        raise self.fault

    def warm_up(self) -> None:
        """Nothing to do."""


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The folder store, ready."""
    storage = open_storage(settings)
    storage.prepare()
    return storage


def queue(database: Database, storage: Storage, count: int, images: int = 1) -> list[str]:
    """So many jobs for a real X-ray."""
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant, images=images).id for _ in range(count)]
        for image in session.scalars(sa.select(Image)):
            with (ROOT / "samples" / "xray-normal.png").open("rb") as file:
                stored = storage.put(object_key(tenant.id), file)
            image.object_key, image.sha256 = stored.key, stored.sha256
    return ids


def classify(settings: Settings, database: Database, storage: Storage, engine: Engine) -> Classify:
    """The role, as a worker process builds it."""
    return Classify("worker", settings, database, storage, BUNDLE, engine)


def test_everything_that_waits_is_answered(
    settings: Settings, clean_database: Database, storage: Storage, engine: Engine
) -> None:
    ids = queue(clean_database, storage, count=20, images=2)
    classify(settings, clean_database, storage, engine).drain(threading.Event())
    with clean_database.transaction() as session:
        results = session.scalars(sa.select(Result)).all()
        states = set(session.scalars(sa.select(Job.state)))
    assert states == {JobState.SUCCEEDED}
    assert sorted(result.job_id for result in results) == sorted(ids)
    assert {result.prediction for result in results} == {"not_covid19"}
    assert {len(result.images) for result in results} == {2}
    assert {result.bundle_sha256 for result in results} == {BUNDLE.sha256}


def test_a_transient_fault_of_the_engine_costs_an_attempt(
    settings: Settings, clean_database: Database, storage: Storage
) -> None:
    (job_id,) = queue(clean_database, storage, count=1)
    role = classify(settings, clean_database, storage, Faulty(EngineError("out of memory")))
    role.drain(threading.Event())
    with clean_database.transaction() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.error_attempts) == (JobState.QUEUED, 1)


def test_what_a_failed_drain_leaves_is_not_kept_alive(
    settings: Settings, clean_database: Database, storage: Storage
) -> None:
    ids = queue(clean_database, storage, count=40)
    role = classify(settings, clean_database, storage, Faulty(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        role.drain(threading.Event())
    with clean_database.transaction() as session:
        abandoned = session.scalars(sa.select(Job.id).where(Job.state == JobState.RUNNING)).all()
        session.execute(sa.update(Job).where(Job.id.in_(abandoned)).values(lease_until=sa.func.now()))
    assert len(abandoned) == settings.batch_size  # the batch ahead of it was given back
    role.beat()
    with clean_database.transaction() as session:
        assert sorted(jobs.rescue(session, 3)[0]) == sorted(abandoned)
        assert session.scalar(sa.select(sa.func.count()).where(Job.state == JobState.QUEUED)) == len(ids)


def test_a_worker_that_stops_gives_back_what_it_has_claimed(
    settings: Settings, clean_database: Database, storage: Storage, engine: Engine
) -> None:
    queue(clean_database, storage, count=3)
    stopping = threading.Event()
    stopping.set()
    classify(settings, clean_database, storage, engine).drain(stopping)
    with clean_database.transaction() as session:
        rows = session.execute(sa.select(Job.state, Job.error_attempts, Job.crash_attempts)).all()
    assert [tuple(row) for row in rows] == [(JobState.QUEUED, 0, 0)] * 3


def test_a_job_cancelled_during_inference_keeps_no_result(
    settings: Settings, clean_database: Database, storage: Storage
) -> None:
    (job_id,) = queue(clean_database, storage, count=1)
    seen: list[int] = []

    class Cancelling(Faulty):
        def predict(self, images: Pixels, heads: Collection[str]) -> dict[str, Probabilities]:
            seen.append(len(images))
            with clean_database.transaction() as session:
                jobs.cancel(session, session.get_one(Job, job_id).tenant_id, job_id)
            return {head: np.full((len(images), 2), 0.5, np.float32) for head in heads}

    classify(settings, clean_database, storage, Cancelling(EngineError())).drain(threading.Event())
    with clean_database.transaction() as session:
        assert session.get_one(Job, job_id).state is JobState.CANCELLED
        assert session.scalars(sa.select(Result)).all() == []
    assert seen == [1]
