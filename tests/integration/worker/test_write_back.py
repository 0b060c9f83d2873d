"""How batches are written: the end of one tenant's job never undoes, or waits for, another's."""

from __future__ import annotations

import threading
from datetime import timedelta

import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Delivery, Job, JobState, WebhookEndpoint
from shared.errors import ThoraqError
from shared.jobs import states
from shared.jobs.claims import Outcome
from tests.support.rows import POLICY, add_bundle, add_endpoint, add_job, add_tenant, answer, take, wait_for_a_lock
from worker.classify.leases import Leases
from worker.classify.write_back import Writer

NOWHERE = "http://127.0.0.1:9/hook"


def state_of(database: Database, job_id: str) -> tuple[JobState, int]:
    """The job's state, and how many attempts it lost to errors."""
    with database.transaction() as session:
        job = session.get_one(Job, job_id)
        return job.state, job.error_attempts


def test_an_endpoint_that_is_removed_meanwhile_undoes_no_tenants_jobs(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        add_bundle(session)
        north, south = add_tenant(session, "north"), add_tenant(session, "south")
        removed = add_endpoint(session, north, NOWHERE).id
        kept = add_endpoint(session, south, NOWHERE).id
        ids = [add_job(session, tenant).id for tenant in (north, south)]
    with clean_database.transaction() as session:
        outcomes = [answer(claim) for claim in take(session)]
    lost: list[list[str]] = []

    def finish() -> None:
        with clean_database.transaction() as session:
            lost.append(states.finish(session, outcomes, POLICY))

    with clean_database.transaction() as session:
        session.execute(sa.delete(WebhookEndpoint).where(WebhookEndpoint.id == removed))
        finishing = threading.Thread(target=finish)
        finishing.start()
        wait_for_a_lock(clean_database)
    finishing.join()
    assert lost == [[]]
    assert [state_of(clean_database, job_id)[0] for job_id in ids] == [JobState.SUCCEEDED] * 2
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Delivery.endpoint_id)).all() == [kept]


def test_an_outcome_that_cannot_be_written_costs_its_own_job_alone(
    settings: Settings, clean_database: Database
) -> None:
    with clean_database.transaction() as session:
        add_bundle(session)
        good, bad = (add_job(session, add_tenant(session, name)).id for name in ("north", "south"))
    with clean_database.transaction() as session:
        claims = {claim.job_id: claim for claim in take(session)}
    # PostgreSQL's JSON cannot hold NUL.
    refused = Outcome(claims[bad], error=ThoraqError("\0"))
    writer = Writer(settings, clean_database, Leases(clean_database, timedelta(seconds=60)))
    writer.put(list(claims.values()), lambda: [answer(claims[good]), refused])
    writer.wait()
    assert state_of(clean_database, good) == (JobState.SUCCEEDED, 0)
    assert state_of(clean_database, bad) == (JobState.QUEUED, 1)
