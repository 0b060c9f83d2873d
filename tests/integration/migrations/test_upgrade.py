"""Migrations run while workers of the revision before work on: expand first, contract when nobody needs the old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from admin.doctor import Doctor
from migrations.upgrade import upgrade
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Batch, Delivery, Job, JobState, WebhookEndpoint
from shared.errors import CorruptImage, problem_of
from shared.jobs import states
from shared.storage import FolderStorage
from standalone.services import Postgres
from tests.support.previous_worker import REVISION, PreviousWorker
from tests.support.rows import BUNDLE, POLICY, answer, take

FAILURE = problem_of(CorruptImage("damaged"))
# As that revision's API wrote it: the models are those of the newest.
HOSPITAL = """
    INSERT INTO tenants (id, name) VALUES ('ten_1', 'north');
    INSERT INTO webhook_endpoints (id, tenant_id, url, events, secret, created_at)
    VALUES ('whe_1', 'ten_1', 'http://127.0.0.1:9/hook', '{*}', 'whsec_x', now() - interval '1 hour');
    INSERT INTO model_bundles (sha256, name, version, card) VALUES (repeat('b', 64), 'test', '1', '{}');
    INSERT INTO batches (id, tenant_id, total, received_at) VALUES ('bat_1', 'ten_1', 8, now());
"""
STUDY = "INSERT INTO studies (id, tenant_id, modality, image_count) VALUES ('stu_' || :n, 'ten_1', 'xray', 1)"
IMAGE = """
    INSERT INTO images (id, tenant_id, study_id, position, file_index, frame, sha256, size_bytes, media_type, problem)
    VALUES ('img_' || :n, 'ten_1', 'stu_' || :n, 0, 0, 0, repeat('0', 64), 1, 'image/png', NULL)"""
JOB = """
    INSERT INTO jobs (id, tenant_id, study_id, batch_id, item, classifier, priority, rank, state)
    VALUES ('job_' || :n, 'ten_1', 'stu_' || :n, 'bat_1', :item, 'binary', 'bulk', 2, 'queued')"""


@pytest.fixture
def database(postgres: Postgres, settings: Settings) -> Iterator[Database]:
    """A database of that revision, with a batch of eight jobs."""
    url = postgres.ensure_database("thoraq_upgraded")
    engine = sa.create_engine(url)
    upgrade(engine, REVISION)
    with engine.begin() as connection:
        connection.execute(sa.text(HOSPITAL))
        for item in range(8):
            for statement in (STUDY, IMAGE, JOB):
                connection.execute(
                    sa.text(statement), {"n": str(item), "item": item} if "item" in statement else {"n": str(item)}
                )
    engine.dispose()
    database = Database(settings.model_copy(update={"database_url": SecretStr(url)}))
    yield database
    database.close()


def test_a_worker_of_the_revision_before_works_on_through_the_migrations(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    old = PreviousWorker(database.engine, BUNDLE)
    old.sign_on()
    before = old.claim(3)
    assert [held.images for held in before] == [1, 1, 1]

    upgrade(database.engine)

    # What it held is still its own, and ends as it would have.
    assert all(old.beat(held) for held in before)
    assert old.finish(before[0], "msg_0")
    assert old.finish(before[1], "msg_1", FAILURE)
    old.release(before[2])
    # It goes on with what is new, beside a worker of the newest revision, and each is fenced off from the other's.
    old.sign_on()
    mine = old.claim(2)
    with database.transaction() as session:
        theirs = take(session, worker="new", max_images=16)
    assert len(mine) == 2
    assert len(theirs) == 4
    assert old.finish(mine[0], "msg_2", FAILURE, transient=True)
    with database.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == mine[1].id).values(lease_until=sa.func.now()))
    with database.transaction() as session:
        assert states.rescue(session, 3) == ([mine[1].id], [])
    assert not old.beat(mine[1])
    assert not old.finish(mine[1], "msg_3")
    with database.transaction() as session:
        assert states.finish(session, [answer(claim) for claim in theirs], POLICY) == []
        session.execute(sa.update(Job).where(Job.state == JobState.QUEUED).values(not_before=None))
    # It claims one that runs alone now, and the last of the batch, which it completes.
    last = [held for _ in range(2) for held in old.claim(1)]
    assert [old.finish(held, f"msg_{n}") for n, held in enumerate(last, start=4)] == [True, True]
    with database.transaction() as session:
        ends = session.scalars(sa.select(Job.state)).all()
        batch = session.get_one(Batch, "bat_1")
        deliveries = session.scalar(sa.select(sa.func.count()).select_from(Delivery))
    assert sorted(ends) == sorted([JobState.SUCCEEDED] * 7 + [JobState.FAILED])
    assert (batch.succeeded, batch.failed) == (7, 1)
    assert batch.completed_at is not None
    assert deliveries == 8 + 1
    old.disable("whe_1")
    with database.transaction() as session:
        endpoint = session.get_one(WebhookEndpoint, "whe_1")
        assert endpoint.changed_at > batch.completed_at

    storage = FolderStorage(tmp_path)
    storage.prepare()
    found = Doctor(settings, database, storage, repair=False).examine()
    assert {finding.invariant: finding.ids for finding in found if finding.ids} == {}
