"""Who goes first, and who is told how long it takes, against a real PostgreSQL."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Delivery, Event, Job, JobState, Modality, Priority, Tenant
from shared.jobs import scheduling, states
from tests.support.rows import (
    AGEING,
    LEASE,
    POLICY,
    add_bundle,
    add_endpoint,
    add_job,
    add_study,
    add_tenant,
    answer,
    ask_about,
    take,
)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """An empty database that knows the bundle the tests answer with."""
    with clean_database.transaction() as session:
        add_bundle(session)
    return clean_database


def backlog(database: Database, name: str, many: int, priority: Priority = Priority.BULK) -> Tenant:
    """A tenant with so many jobs queued, about one study."""
    with database.transaction() as session:
        tenant = add_tenant(session, name)
        study = add_study(session, tenant, Modality.XRAY, 1)
        for _ in range(many):
            ask_about(session, study, priority=priority)
    return tenant


def taken(database: Database, max_images: int = 16) -> list[str]:
    """The ids of the next claim's jobs, which are then answered."""
    with database.transaction() as session:
        claims = take(session, max_images=max_images)
    with database.transaction() as session:
        assert states.finish(session, [answer(claim) for claim in claims], POLICY) == []
    return [claim.job_id for claim in claims]


def test_stat_goes_before_routine_before_bulk(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        bulk = add_job(session, tenant, priority=Priority.BULK).id
        routine = add_job(session, tenant, priority=Priority.ROUTINE).id
        stat = add_job(session, tenant, priority=Priority.STAT).id
    assert taken(database) == [stat]  # without the others, which would make it slower
    assert taken(database) == [routine, bulk]


def test_a_stat_study_goes_at_once_past_another_tenants_backlog(database: Database) -> None:
    backlog(database, "north", 300)
    with database.transaction() as session:
        stat = add_job(session, add_tenant(session, "south"), priority=Priority.STAT).id
    assert taken(database) == [stat]


def test_what_a_tenant_sends_as_stat_beyond_its_share_is_served_as_routine(database: Database) -> None:
    north = backlog(database, "north", 1_500, Priority.STAT)
    south = backlog(database, "south", 1, Priority.ROUTINE)
    with database.transaction() as session:
        ranks = Counter(session.scalars(sa.select(Job.rank).where(Job.tenant_id == north.id)))
        (routine,) = session.scalars(sa.select(Job.id).where(Job.tenant_id == south.id))
    assert ranks == {0: north.stat_share, 1: 1_500 - north.stat_share}
    claims = 0
    while routine not in taken(database):
        claims += 1
    assert claims <= north.stat_share / 16 + 1


def test_a_tenants_share_of_stat_is_free_again_when_its_jobs_have_run(database: Database) -> None:
    with database.transaction() as session:
        north = add_tenant(session, "north")
        session.execute(sa.update(Tenant).values(stat_share=1))
        first, second = (add_job(session, north, priority=Priority.STAT) for _ in range(2))
        assert (first.rank, second.rank) == (0, 1)
    taken(database)
    with database.transaction() as session:
        assert add_job(session, north, priority=Priority.STAT).rank == 0


def test_by_turns_each_tenant_has_its_next_job_whatever_its_class_and_stat_has_none(database: Database) -> None:
    backlog(database, "north", 30, Priority.ROUTINE)
    backlog(database, "north", 30, Priority.STAT)
    south = backlog(database, "south", 30, Priority.BULK)
    with database.transaction() as session:
        claims = states.claim(session, worker="w1", max_images=16, lease=LEASE, ageing=AGEING, by_turns=True)
    assert Counter(claim.tenant_id == south.id for claim in claims) == {True: 8, False: 8}
    assert not any(claim.stat for claim in claims)


def test_bulk_that_waited_long_is_served_as_routine_but_never_before_stat(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        young, old = (add_job(session, tenant, priority=Priority.BULK).id for _ in range(2))
        session.execute(sa.update(Job).where(Job.id == old).values(queued_at=sa.func.now() - timedelta(hours=1)))
        routine = add_job(session, tenant).id
        stat = add_job(session, tenant, priority=Priority.STAT).id
    assert taken(database) == [stat]
    assert taken(database) == [old, routine, young]
    with database.transaction() as session:
        assert session.get_one(Job, old).rank == Priority.BULK.rank  # no row was touched for it


def test_tenants_take_turns_within_a_rank(database: Database) -> None:
    with database.transaction() as session:
        north, south = add_tenant(session, "north"), add_tenant(session, "south")
        first = [add_job(session, north).id for _ in range(3)]
        second = [add_job(session, south).id for _ in range(3)]
    assert sorted(taken(database, 4)) == sorted(first[:2] + second[:2])


@pytest.mark.parametrize(("claim", "share"), [(16, 0.5), (1, 0.3)])
def test_a_small_tenant_has_its_share_beside_a_large_older_backlog(
    database: Database, claim: int, share: float
) -> None:
    backlog(database, "north", 200)
    south = backlog(database, "south", 48)
    served: Counter[bool] = Counter()
    with database.transaction() as session:
        mine = set(session.scalars(sa.select(Job.id).where(Job.tenant_id == south.id)))
    while served.total() < 64:
        served.update(job_id in mine for job_id in taken(database, claim))
    # One at a time they draw lots: below 0.3 in 64 draws is one run in a thousand.
    assert served[True] / served.total() >= share


def test_not_before_holds_a_job_back(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        first, second = add_job(session, tenant).id, add_job(session, tenant).id
        session.execute(sa.update(Job).where(Job.id == first).values(not_before=sa.func.now() + timedelta(minutes=1)))
    assert taken(database) == [second]
    with database.transaction() as session:
        assert not scheduling.waiting(session)
        session.execute(sa.update(Job).where(Job.id == first).values(not_before=sa.func.now()))
    with database.transaction() as session:
        assert scheduling.waiting(session)
        third = add_job(session, tenant).id
    assert taken(database) == [first, third]  # its turn is that of when it was queued


def test_what_is_too_late_is_not_run_and_fails_as_expired(database: Database) -> None:
    now = datetime.now(UTC)
    with database.transaction() as session:
        tenant = add_tenant(session)
        add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        late = add_job(session, tenant, expires_at=now - timedelta(seconds=1)).id
        in_time = add_job(session, tenant, expires_at=now + timedelta(hours=1)).id
    assert taken(database) == [in_time]
    with database.transaction() as session:
        assert states.expire(session, 10) == [late]
    with database.transaction() as session:
        assert states.expire(session, 10) == []
        job = session.get_one(Job, late)
        assert (job.state, job.started_at, (job.error or {})["type"]) == (JobState.FAILED, None, "expired")
        told = sa.select(Event.type).join(Delivery, Delivery.event_id == Event.id).where(Event.job_id == late)
        assert session.scalars(told).all() == ["job.failed"]


def test_a_running_job_is_not_stopped_by_its_deadline(database: Database) -> None:
    with database.transaction() as session:
        add_job(session, add_tenant(session), expires_at=datetime.now(UTC) + timedelta(hours=1))
    with database.transaction() as session:
        (claim,) = take(session)
        session.execute(sa.update(Job).values(expires_at=sa.func.now() - timedelta(seconds=1)))
    with database.transaction() as session:
        assert states.expire(session, 10) == []
        assert states.finish(session, [answer(claim)], POLICY) == []


def test_expiry_takes_no_more_than_it_may(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        for _ in range(3):
            add_job(session, tenant, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with database.transaction() as session:
        assert len(states.expire(session, 2)) == 2
    with database.transaction() as session:
        assert len(states.expire(session, 2)) == 1


def test_place_in_line_counts_who_goes_first(database: Database) -> None:
    with database.transaction() as session:
        tenant, other = add_tenant(session, "north"), add_tenant(session, "south")
        add_job(session, tenant, priority=Priority.STAT)
        add_job(session, other, priority=Priority.STAT)
        add_job(session, tenant)
        mine = add_job(session, tenant)
        add_job(session, tenant)
        for _ in range(5):  # in turns with this tenant's: one of them goes before its second job
            add_job(session, other)
        assert scheduling.place_in_line(session, mine) == (4, None)


def test_the_estimated_wait_follows_from_what_was_measured(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        done = [add_job(session, tenant).id for _ in range(4)]
        mine = add_job(session, tenant)
    assert taken(database, 4) == done
    with database.transaction() as session:
        for number, job_id in enumerate(done):
            # Two and two together, two seconds each, with a minute of idleness in between.
            session.execute(sa.text("SET LOCAL session_replication_role = replica"))
            end = sa.func.now() - timedelta(seconds=60 * (number // 2))
            row = sa.update(Job).where(Job.id == job_id)
            session.execute(row.values(finished_at=end, started_at=end - timedelta(seconds=2)))
        # Four jobs in four seconds of work, and one to go.
        position, seconds = scheduling.place_in_line(session, mine)
    assert position == 0
    assert seconds == pytest.approx(1.0)
