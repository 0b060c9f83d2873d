"""The sweeper, on a real database, store and broker."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Batch, EventType, IdempotencyKey, Image, Job, JobState, Upload, UploadState
from shared.doorbell import CLASSIFY, DELIVER
from shared.ids import new_id
from shared.imaging.info import ImageInfo, MediaType
from shared.storage import Storage, object_key, open_storage
from shared.studies import direct_uploads
from shared.webhooks.outbox import record_event, schedule
from tests.support.rows import add_batch, add_endpoint, add_job, add_tenant, take
from tests.support.waiting import EVENT_SECONDS
from worker.sweep import Sweep


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The folder store, ready."""
    storage = open_storage(settings)
    storage.prepare()
    return storage


@pytest.fixture
def sweep(settings: Settings, clean_database: Database, storage: Storage) -> Sweep:
    """The handler, as a worker process builds it."""
    return Sweep(settings, clean_database, storage)


def test_jobs_of_dead_workers_are_put_back(sweep: Sweep, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session)).id
        take(session)
        session.execute(sa.update(Job).values(lease_until=sa.func.now() - timedelta(seconds=1)))
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.isolated) == (JobState.QUEUED, True)


def test_every_job_whose_time_is_over_fails_in_one_sweep(
    sweep: Sweep, clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sweep.AT_ONCE", 2)
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        for _ in range(5):
            add_job(session, tenant, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        waits = add_job(session, tenant, expires_at=datetime.now(UTC) + timedelta(hours=1)).id
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Job.id).where(Job.state == JobState.QUEUED)).all() == [waits]
        errors = session.scalars(sa.select(Job.error).where(Job.state == JobState.FAILED)).all()
    assert [error and error["type"] for error in errors] == ["expired"] * 5


def test_batches_that_nobody_sends_any_more_are_cancelled_and_closed(
    sweep: Sweep, clean_database: Database, settings: Settings
) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        batches = [add_batch(session, tenant, total=1, received=False) for _ in range(3)]
        for batch in batches:
            add_job(session, tenant, batch=batch, item=0)
        batches[0].progress_at = sa.func.now()
        for batch in batches[1:]:
            batch.progress_at = sa.func.now() - timedelta(minutes=settings.batch_receive_minutes + 1)
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        rows = [session.get_one(Batch, batch.id) for batch in batches]
        assert [row.cancelled for row in rows] == [0, 1, 1]
        assert [row.completed_at is not None for row in rows] == [False, True, True]


@pytest.mark.usefixtures("clean_redis")
def test_lost_doorbells_are_rung_again(sweep: Sweep, clean_database: Database, redis_url: str) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        add_job(session, tenant)
        endpoint = add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        schedule(session, record_event(session, tenant.id, EventType.TEST, {}), endpoint)
    sweep.drain(threading.Event())
    until = time.monotonic() + EVENT_SECONDS  # the bell has a thread of its own
    with redis.Redis.from_url(redis_url) as connection:
        while (rung := [connection.llen(CLASSIFY), connection.llen(DELIVER)]) != [1, 1] and time.monotonic() < until:
            time.sleep(0.02)
    assert rung == [1, 1]


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
        waiting, spent = (upload(session, storage, tenant.id, content) for content in (b"waits", b"spent"))
        spent.state = UploadState.USED  # by a study that had the same bytes already
    old = {named, orphan, waiting.object_key, spent.object_key}
    yesterday = time.time() - 2 * 24 * 3600
    for key in old:
        os.utime(Path(settings.storage_dir) / key, (yesterday, yesterday))
    sweep.drain(threading.Event())
    left = {info.key for info in storage.list("") if info.key in {*old, young}}
    assert left == {named, young, waiting.object_key}


def upload(session: Session, storage: Storage, tenant_id: str, content: bytes) -> Upload:
    """A complete upload, whose bytes are in the store."""
    announced = [(new_id("upl"), len(content), hashlib.sha256(content).hexdigest())]
    (made,) = direct_uploads.announce(session, tenant_id, announced, timedelta(hours=1))
    kept = storage.put(made.object_key, BytesIO(content))
    direct_uploads.complete(session, made, kept, ImageInfo(MediaType.PNG, 1, 1), timedelta(hours=1))
    return made


def test_uploads_that_nobody_used_are_removed(sweep: Sweep, clean_database: Database, storage: Storage) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session).id
        over, used, young = (upload(session, storage, tenant, content) for content in (b"over", b"used", b"young"))
        pending, unsent = direct_uploads.announce(
            session, tenant, [(new_id("upl"), 1, "0" * 64) for _ in range(2)], timedelta(hours=1)
        )
        direct_uploads.use(session, tenant, [used.id])
        past = sa.func.now() - timedelta(seconds=1)
        session.execute(sa.update(Upload).where(Upload.id.in_([over.id, used.id, unsent.id])).values(expires_at=past))
    sweep.drain(threading.Event())
    with clean_database.transaction() as session:
        assert set(session.scalars(sa.select(Upload.id))) == {used.id, young.id, pending.id}
    keys = {info.key for info in storage.list("")}
    assert keys & {over.object_key, used.object_key, young.object_key} == {used.object_key, young.object_key}


def test_a_sweep_and_a_study_do_not_both_get_an_upload(
    sweep: Sweep, clean_database: Database, storage: Storage
) -> None:
    with clean_database.transaction() as session:
        made = upload(session, storage, add_tenant(session).id, b"wanted")
        session.execute(sa.update(Upload).values(expires_at=sa.func.now() - timedelta(seconds=1)))
    with clean_database.transaction() as session:
        direct_uploads.use(session, made.tenant_id, [made.id])
        sweep.drain(threading.Event())  # skips what the study's transaction holds
    sweep.drain(threading.Event())
    assert storage.get(made.object_key) == b"wanted"
