"""The sweeper, on a real database, store and broker."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from shared.config import Settings
from shared.db import Database
from shared.models import EventType, IdempotencyKey, Image, Job, JobState, Priority
from shared.queue import CLASSIFY, DELIVER
from shared.storage import Storage, object_key, open_storage
from shared.webhooks import record_event, schedule
from tests.queue_support import add_endpoint, add_job, add_tenant, take
from worker.sweep import Sweep


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The folder store, ready."""
    storage = open_storage(settings)
    storage.prepare()
    return storage


@pytest.fixture
def sweep(settings: Settings, clean_database: Database, storage: Storage) -> Sweep:
    """The role, as a worker process builds it."""
    return Sweep(settings, clean_database, storage)


def test_jobs_of_dead_workers_are_put_back(sweep: Sweep, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session)).id
        take(session)
        session.execute(sa.update(Job).values(lease_until=sa.func.now() - timedelta(seconds=1)))
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.alone) == (JobState.QUEUED, True)


def test_bulk_jobs_that_waited_long_move_up(sweep: Sweep, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        add_job(session, add_tenant(session), priority=Priority.BULK)
        session.execute(sa.update(Job).values(queued_at=sa.func.now() - timedelta(days=1)))
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Job.rank)).one() == Priority.ROUTINE.rank


@pytest.mark.usefixtures("clean_redis")
def test_lost_doorbells_are_rung_again(sweep: Sweep, clean_database: Database, redis_url: str) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        add_job(session, tenant)
        endpoint = add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        schedule(session, record_event(session, tenant.id, EventType.TEST, {}), endpoint)
    sweep.drain(threading.Event())
    with redis.Redis.from_url(redis_url) as connection:
        assert connection.llen(CLASSIFY) == 1
        assert connection.llen(DELIVER) == 1


def test_a_second_sweep_right_after_the_first_does_nothing(sweep: Sweep, clean_database: Database) -> None:
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        add_job(session, add_tenant(session))
        take(session)
        session.execute(sa.update(Job).values(lease_until=sa.func.now() - timedelta(seconds=1)))
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Job.state)).one() is JobState.RUNNING


def test_old_idempotency_keys_are_forgotten(sweep: Sweep, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        for key, age in (("old", timedelta(days=30)), ("young", timedelta(hours=1))):
            row = IdempotencyKey(tenant_id=tenant.id, key=key, fingerprint="f", resource_id="job_1")
            row.created_at = sa.func.now() - age
            session.add(row)
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(IdempotencyKey.key)).all() == ["young"]


def test_old_objects_without_a_row_are_removed(
    sweep: Sweep, clean_database: Database, storage: Storage, settings: Settings
) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        add_job(session, tenant)
        named, orphan, young = (storage.put(object_key(tenant.id), BytesIO(b"x")).key for _ in range(3))
        session.execute(sa.update(Image).values(object_key=named))
    yesterday = time.time() - 2 * 24 * 3600
    for key in (named, orphan):
        os.utime(Path(settings.storage_dir) / key, (yesterday, yesterday))
    sweep.drain(threading.Event())
    left = {info.key for info in storage.list("") if info.key in {named, orphan, young}}
    assert left == {named, young}
