"""Requests that come together share a transaction, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from api.http.idempotency import KeyUse
from api.jobs.group_commit import Submission, Submissions, Written
from shared.config import Settings
from shared.db.engine import Database, TenantDatabase
from shared.db.tables import AuditEntry, Classifier, Job, Modality, Priority, Study
from shared.errors import IdempotencyKeyReused, Unavailable
from shared.ids import new_id
from shared.jobs.new_jobs import NewJob
from shared.studies.rows import NewImage, NewStudy
from standalone.services import free_port
from tests.support.rows import add_tenant


@pytest.fixture
def tenant_id(clean_database: Database) -> str:
    with clean_database.transaction() as session:
        return add_tenant(session).id


def submission(tenant_id: str, key: str | None = None, fingerprint: str = "as before") -> Submission:
    study_id, job_id = new_id("stu"), new_id("job")
    image = NewImage(0, 0, "0" * 64, 10, f"{tenant_id}/{job_id}", "image/png", 8, 8)
    return Submission(
        key_id="key_1",
        study=NewStudy(study_id, tenant_id, Modality.XRAY, [image]),
        job=NewJob(job_id, tenant_id, study_id, Classifier.BINARY, Priority.ROUTINE),
        key_use=None if key is None else KeyUse(key, fingerprint, job_id),
    )


def write_together(database: TenantDatabase, group: Sequence[Submission]) -> list[Future[Written]]:
    """All of `group` wait while one more is being written; how each came out."""
    submissions = Submissions(database)
    with ThreadPoolExecutor(len(group) + 1) as pool:
        with database.transaction() as blocker:
            blocker.execute(sa.text("LOCK TABLE studies IN EXCLUSIVE MODE"))
            first = pool.submit(submissions.write, submission(group[0].job.tenant_id))
            while not _waits_for_lock(database):
                time.sleep(0.01)
            others = [pool.submit(submissions.write, one) for one in group]
            while submissions.waiting < len(group):
                time.sleep(0.01)
        first.result()
        return others


def _waits_for_lock(database: TenantDatabase) -> bool:
    with database.transaction() as session:
        return bool(session.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def queued(database: Database) -> set[str]:
    with database.transaction() as session:
        return set(session.scalars(sa.select(Job.id)))


def test_those_that_wait_are_written_by_one_transaction(
    clean_database: Database, api_database: TenantDatabase, tenant_id: str
) -> None:
    group = [submission(tenant_id) for _ in range(5)]
    times = {future.result().queued_at for future in write_together(api_database, group)}
    assert len(times) == 1
    with clean_database.transaction() as session:
        of_group = Job.id.in_([one.job.id for one in group])
        assert set(session.scalars(sa.select(Job.queued_at).where(of_group))) == times
        assert session.scalar(sa.select(sa.func.count()).select_from(Study)) == 6
        acts = sa.select(AuditEntry.subject).where(AuditEntry.action == "job.submit")
        assert set(session.scalars(acts)) == queued(clean_database)


def test_a_transaction_waits_a_moment_for_those_that_are_coming(
    clean_database: Database, api_database: TenantDatabase, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.group_commit.GATHER_SECONDS", 30)
    submissions = Submissions(api_database)
    with ThreadPoolExecutor(2) as pool:
        with submissions.coming():
            first = pool.submit(submissions.write, submission(tenant_id))
            second = pool.submit(submissions.write, submission(tenant_id))
            while submissions.waiting < 2:
                time.sleep(0.01)
            assert queued(clean_database) == set()
        assert first.result().queued_at == second.result().queued_at


def test_a_transaction_waits_no_longer_than_that(api_database: TenantDatabase, tenant_id: str) -> None:
    submissions = Submissions(api_database)
    with submissions.coming():
        assert submissions.write(submission(tenant_id)).first is None


def test_one_that_cannot_be_written_spoils_no_other(
    clean_database: Database, api_database: TenantDatabase, tenant_id: str
) -> None:
    good, other = submission(tenant_id), submission(tenant_id)
    bad = replace(submission(tenant_id), job=replace(good.job))  # a job of this id is there already
    outcomes = write_together(api_database, [good, bad, other])
    assert isinstance(outcomes[1].exception(), IntegrityError)
    assert outcomes[0].result().first is outcomes[2].result().first is None
    assert {good.job.id, other.job.id} <= queued(clean_database)


def test_two_of_one_key_make_one_job(clean_database: Database, api_database: TenantDatabase, tenant_id: str) -> None:
    one, again, other = submission(tenant_id, "k"), submission(tenant_id, "k"), submission(tenant_id)
    outcomes = [future.result().first for future in write_together(api_database, [one, again, other])]
    made = one if outcomes[0] is None else again
    assert sorted(outcomes[:2], key=str) == sorted([None, made.job.id], key=str)
    assert outcomes[2] is None
    assert queued(clean_database) & {one.job.id, again.job.id} == {made.job.id}


def test_a_key_of_another_request_is_refused_alone(
    clean_database: Database, api_database: TenantDatabase, tenant_id: str
) -> None:
    Submissions(api_database).write(submission(tenant_id, "k"))
    reused, other = submission(tenant_id, "k", "another"), submission(tenant_id, "l")
    refused, written = write_together(api_database, [reused, other])
    assert isinstance(refused.exception(), IdempotencyKeyReused)
    assert written.result().first is None
    assert reused.job.id not in queued(clean_database)


def test_tenants_have_transactions_of_their_own(
    clean_database: Database, api_database: TenantDatabase, tenant_id: str
) -> None:
    with clean_database.transaction() as session:
        south = add_tenant(session, "south").id
    group = [submission(tenant) for tenant in (tenant_id, south, tenant_id, south)]
    times = [future.result().queued_at for future in write_together(api_database, group)]
    assert times[0] == times[2] != times[1] == times[3]
    assert {one.job.id for one in group} <= queued(clean_database)


def test_without_a_database_everybody_is_told(settings: Settings, tenant_id: str) -> None:
    nowhere = f"postgresql+psycopg://thoraq@127.0.0.1:{free_port()}/thoraq"
    database = TenantDatabase(settings.model_copy(update={"database_url": type(settings.database_url)(nowhere)}))
    with pytest.raises(Unavailable):
        Submissions(database).write(submission(tenant_id))
