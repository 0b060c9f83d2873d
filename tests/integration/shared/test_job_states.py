"""The life of jobs as a state machine: whatever two workers, their deaths, a sweeper and clients do, and in any order.

The model holds what a reader of docs/explain/job-states.md would expect; the database must agree with it after every
step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import exc

from shared.db.engine import Database
from shared.db.tables import TERMINAL, Base, Delivery, Event, Job, JobState, Result
from shared.errors import Conflict, CorruptImage, EngineError, ThoraqError
from shared.jobs import states
from shared.jobs.claims import Claim, Outcome
from tests.support.rows import POLICY, add_batch, add_bundle, add_endpoint, add_job, add_tenant, answer

CRASHES = 3
WORKERS = ("one", "two")
LEASE = timedelta(hours=1)  # it runs out when the machine says so
Q, R = JobState.QUEUED, JobState.RUNNING
ROWS = sa.select(Job.id, Job.state, Job.lease_token, Job.isolated, Job.error_attempts, Job.crash_attempts)
TOLD = (
    sa.select(Event.job_id, Event.type).join(Delivery, Delivery.event_id == Event.id).where(Event.job_id.is_not(None))
)


@dataclass
class Life:
    """What is known of a job."""

    state: JobState = Q
    holder: str | None = None
    token: str | None = None
    isolated: bool = False
    errors: int = 0
    crashes: int = 0
    expires: bool = False

    def move(self, state: JobState) -> None:
        """Off the lease, into another state; none leads out of a terminal one."""
        assert self.state not in TERMINAL
        self.state, self.holder, self.token = state, None, None


class Jobs(RuleBasedStateMachine):
    """A tenant with a webhook, a batch, two workers and a sweeper."""

    database: Database
    #: what a worker was given, at any time: it may come back with it whenever it likes
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, Life] = {}
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
        with self.database.transaction() as session:
            session.execute(sa.text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
            add_bundle(session)
            self.tenant = add_tenant(session)
            add_endpoint(session, self.tenant, "http://127.0.0.1:9/hook")
            self.batch = add_batch(session, self.tenant, total=1)

    @rule(in_batch=st.booleans())
    def submit(self, in_batch: bool) -> None:
        with self.database.transaction() as session:
            job = add_job(session, self.tenant, batch=self.batch if in_batch else None)
            self.lives[job.id] = Life()

    @rule(target=claims, worker=st.sampled_from(WORKERS), many=st.integers(1, 4), allow_isolated=st.booleans())
    def claim(self, worker: str, many: int, allow_isolated: bool) -> object:
        with self.database.transaction() as session:
            found = states.claim(
                session, worker=worker, max_images=many, lease=LEASE, ageing=LEASE, allow_isolated=allow_isolated
            )
        assert len(found) <= many
        assert not any(claim.isolated for claim in found) or (allow_isolated and len(found) == 1)
        for claim in found:
            life = self.lives[claim.job_id]
            assert (life.state, claim.isolated) == (Q, life.isolated)
            life.state, life.holder, life.token = R, worker, claim.token
        if not found:
            waiting = [life for life in self.lives.values() if life.state is Q]
            # What is too late hides what is behind it until it is swept.
            assert (
                not waiting
                or any(life.expires for life in waiting)
                or (not allow_isolated and any(w.isolated for w in waiting))
            )
        return multiple(*found)

    @rule(claim=claims, error=st.sampled_from([None, EngineError("passing"), CorruptImage("for good")]))
    def finish(self, claim: Claim, error: ThoraqError | None) -> None:
        """In time, late, for the second time, or after somebody else."""
        life = self.lives[claim.job_id]
        mine = life.token == claim.token
        with self.database.transaction() as session:
            outcome = answer(claim) if error is None else Outcome(claim, error=error)
            lost = states.finish(session, [outcome], POLICY)
            session.execute(sa.update(Job).where(Job.state == Q).values(not_before=None))  # nobody waits here
        assert lost == ([] if mine else [claim.job_id])
        if not mine:
            return
        if error is None:
            life.move(JobState.SUCCEEDED)
            return
        life.errors += not error.permanent
        life.move(JobState.FAILED if error.permanent or life.errors >= POLICY.max_attempts else Q)

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        life = self.lives[claim.job_id]
        with self.database.transaction() as session:
            states.release(session, [claim])
        if life.token == claim.token:
            life.move(Q)

    @rule(claim=claims)
    def beat(self, claim: Claim) -> None:
        with self.database.transaction() as session:
            kept = states.heartbeat(session, [claim], LEASE)
        assert kept == ({claim.job_id} if self.lives[claim.job_id].token == claim.token else set())

    @rule(worker=st.sampled_from(WORKERS))
    def die_and_be_swept(self, worker: str) -> None:
        """All of a worker's leases run out. It may have died, or only been slow: its claims stay with it."""
        with self.database.transaction() as session:
            gone = sa.and_(Job.state == R, Job.worker == worker)
            session.execute(sa.update(Job).where(gone).values(lease_until=sa.func.now() - timedelta(seconds=1)))
        with self.database.transaction() as session:
            back, quarantined = states.rescue(session, CRASHES)
        held = {job_id: life for job_id, life in self.lives.items() if life.holder == worker}
        assert {*back, *quarantined} == held.keys()
        for life in held.values():
            life.crashes += life.isolated
            life.move(JobState.QUARANTINED if life.crashes >= CRASHES else Q)
            life.isolated = True

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        assume(self.lives)
        job_id = data.draw(st.sampled_from(sorted(self.lives)))
        life = self.lives[job_id]
        over = life.state in TERMINAL - {JobState.CANCELLED}
        try:
            with self.database.transaction() as session:
                states.cancel(session, self.tenant.id, job_id)
        except Conflict:
            assert over
        else:
            assert not over
            if life.state is not JobState.CANCELLED:
                life.move(JobState.CANCELLED)

    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """A deadline passes: it ends what has not run, and nothing else."""
        assume(self.lives)
        job_id = data.draw(st.sampled_from(sorted(self.lives)))
        with self.database.transaction() as session:
            late = sa.func.now() - timedelta(seconds=1)
            session.execute(sa.update(Job).where(Job.id == job_id, Job.finished_at.is_(None)).values(expires_at=late))
        life = self.lives[job_id]
        life.expires = life.expires or life.state not in TERMINAL
        with self.database.transaction() as session:
            ended = states.expire(session, 100)
        due = {name for name, life in self.lives.items() if life.expires and life.state is Q}
        assert set(ended) == due
        for name in due:
            self.lives[name].move(JobState.FAILED)

    @invariant()
    def the_database_agrees(self) -> None:
        lives = self.lives
        with self.database.transaction() as session:
            rows = session.execute(ROWS).all()
            results = session.scalars(sa.select(Result.job_id)).all()
            told = session.execute(TOLD).all()
        assert {row.id: tuple(row)[1:] for row in rows} == {
            name: (life.state, life.token, life.isolated, life.errors, life.crashes) for name, life in lives.items()
        }
        # Exactly one result, exactly one delivery, and the state stays as it was told.
        assert sorted(results) == sorted(name for name, life in lives.items() if life.state is JobState.SUCCEEDED)
        assert sorted((row.job_id, row.type) for row in told) == sorted(
            (name, f"job.{life.state}") for name, life in lives.items() if life.state in TERMINAL
        )


def test_jobs_live_as_the_diagram_says(clean_database: Database) -> None:
    class OnThis(Jobs):
        database = clean_database

    run_state_machine_as_test(
        OnThis,
        settings=settings(
            max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_the_database_lets_a_job_go_just_where_the_diagram_does(clean_database: Database) -> None:
    """Whoever writes: by hand, with psql, or with a bug."""
    page = (Path(__file__).parents[3] / "docs" / "explain" / "job-states.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `([a-z]+)` \| `([a-z]+)` \|", page, re.MULTILINE))
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session)).id
    pairs = [(before, after) for before in JobState for after in JobState if before is not after]
    allowed = {(str(before), str(after)) for before, after in pairs if goes(clean_database, job_id, before, after)}
    assert allowed == shown


def goes(database: Database, job_id: str, before: JobState, after: JobState) -> bool:
    """Whether a job can be moved so; it stays as it is."""
    with database.engine.connect() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))  # no trigger in the way
        connection.execute(PUT, {"id": job_id, "state": before})
        connection.execute(sa.text("SET LOCAL session_replication_role = origin"))
        try:
            connection.execute(PUT, {"id": job_id, "state": after})
        except exc.IntegrityError as error:
            return "cannot go from" not in str(error)
        finally:
            connection.rollback()
    return True


PUT = sa.text("""
    UPDATE jobs SET state = CAST(:state AS text),
        lease_token = CASE WHEN CAST(:state AS text) = 'running' THEN 'token' END,
        lease_until = CASE WHEN CAST(:state AS text) = 'running' THEN now() END,
        finished_at = CASE WHEN CAST(:state AS text) NOT IN ('queued', 'running') THEN now() END
    WHERE id = :id""")
