"""With the real models: processes die, Redis forgets, and every accepted job is answered once all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from client import Client, Job
from standalone.stack import Stack
from tests.support.faults import count
from tests.support.waiting import until

XRAY = Path(__file__).parents[3] / "samples" / "xray-normal.png"


@pytest.fixture
def client(whole_stack: Stack) -> Iterator[Client]:
    """A client with the first key, and everything up."""
    with whole_stack.client() as client:
        yield client


@pytest.fixture
def database(whole_stack: Stack) -> Iterator[sa.Engine]:
    """A look into the stack's database."""
    engine = sa.create_engine(whole_stack.settings.database_url.get_secret_value())
    yield engine
    engine.dispose()


def submit(client: Client, count: int) -> list[Job]:
    """So many jobs, each with a study of its own."""
    return [client.submit([XRAY], classifier="binary", modality="xray") for _ in range(count)]


def assert_each_answered_once(client: Client, database: sa.Engine, jobs: list[Job]) -> None:
    """Every job succeeded, and the database holds one result for each."""
    assert {job.status for job in client.wait_many(jobs)} == {"succeeded"}
    with database.connect() as connection:
        ids = sa.text("SELECT job_id FROM results WHERE job_id = ANY (:ids)")
        found = connection.execute(ids, {"ids": [job.id for job in jobs]}).scalars().all()
    assert sorted(found) == sorted(job.id for job in jobs)


def test_a_worker_killed_in_mid_batch(whole_stack: Stack, client: Client, database: sa.Engine) -> None:
    whole_stack.stop("classify")
    jobs = submit(client, 48)
    whole_stack.start("classify")

    def running() -> bool:
        return count(database, "SELECT count(*) FROM jobs WHERE state = 'running'") > 0

    until(running)
    whole_stack.kill("classify")
    assert running(), "it was killed too late: nothing was on lease"
    whole_stack.start("classify")
    assert_each_answered_once(client, database, jobs)
    assert count(database, "SELECT count(*) FROM jobs WHERE alone"), "the kill came at no bad moment"


def test_redis_killed_and_emptied_with_jobs_queued(whole_stack: Stack, client: Client, database: sa.Engine) -> None:
    whole_stack.stop("classify")
    jobs = submit(client, 8)
    with redis.Redis.from_url(whole_stack.settings.redis_url.get_secret_value()) as connection:
        connection.flushall()
    whole_stack.redis.kill()
    jobs += submit(client, 4)  # accepted without Redis
    whole_stack.start("classify")
    assert_each_answered_once(client, database, jobs)  # and answered without Redis
    whole_stack.redis.start()
    whole_stack.wait_ready()
    assert_each_answered_once(client, database, submit(client, 2))


def test_a_worker_asked_to_stop_gives_back_what_it_has_not_run(
    whole_stack: Stack, client: Client, database: sa.Engine
) -> None:
    whole_stack.stop("classify")
    jobs = submit(client, 48)
    whole_stack.start("classify")
    ids = [job.id for job in jobs]
    until(lambda: count(database, "SELECT count(*) FROM results WHERE job_id = ANY (:ids)", ids=ids) > 0)
    whole_stack.stop("classify")
    assert count(database, "SELECT count(*) FROM jobs WHERE state = 'running'") == 0
    tried = "SELECT count(*) FROM jobs WHERE id = ANY (:ids) AND error_attempts + crash_attempts > 0"
    assert count(database, tried, ids=ids) == 0
    whole_stack.start("classify")
    assert_each_answered_once(client, database, jobs)


def test_the_database_goes_away_for_a_moment(whole_stack: Stack, client: Client, database: sa.Engine) -> None:
    jobs = submit(client, 8)
    whole_stack.postgres.kill()
    whole_stack.postgres.start()
    whole_stack.wait_ready()
    assert_each_answered_once(client, database, jobs)
