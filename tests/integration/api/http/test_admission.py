"""No room for more: who is refused with what and when to come back, what stays in, and that it is over by itself."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from pydantic import SecretStr
from werkzeug.test import TestResponse

from api.http.limits import backpressure
from api.http.limits.backpressure import Admission
from migrations.upgrade import upgrade
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Image, Job, Priority
from shared.errors import ThoraqError, Unavailable
from standalone.services import Postgres
from tests.support.api import PNG, Caller, MakeApp, json_of, new_key, objects, problem_of, work
from tests.support.batches import packed, post_zip
from tests.support.rows import add_job, add_tenant
from tests.support.waiting import until

PER_TENANT, ALL, HUGE = 10, 20, 10**18


@pytest.fixture
def callers(make_app: MakeApp, clean_database: Database) -> Callable[..., tuple[Caller, Caller]]:
    """Two hospitals, at an application with these settings."""

    def make(**changes: object) -> tuple[Caller, Caller]:
        client = make_app(**changes).test_client()
        return tuple(Caller(client, new_key(clean_database, tenant=name)) for name in ("north", "south"))  # type: ignore[return-value]

    return make


def wait(database: Database, tenant: str, count: int) -> None:
    """So many jobs of the tenant wait."""
    with database.transaction() as session:
        for _ in range(count):
            add_job(session, add_tenant(session, tenant))


def send(caller: Caller, **fields: Any) -> TestResponse:
    return caller.send(PNG, **{"modality": "xray"} | fields)


def checks(caller: Caller) -> dict[str, str]:
    found: dict[str, str] = json_of(caller.client.get("/readyz"), 503)["checks"]  # no worker runs here
    return found


def test_a_tenant_with_too_many_jobs_that_wait_is_refused_until_they_have_run(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database
) -> None:
    north, south = callers(max_queued_per_tenant=PER_TENANT)
    wait(clean_database, "north", PER_TENANT)
    refused = send(north)
    problem_of(refused, 429, "queue-full")
    assert refused.headers["Retry-After"] == "15"
    assert objects(north.client) == []
    json_of(send(south), 202)
    assert checks(north)["queue"] == "ok"
    work(clean_database)
    until(lambda: send(north).status_code == 202)


def test_what_one_process_lets_in_counts_before_it_looks_again(
    callers: Callable[..., tuple[Caller, Caller]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backpressure, "LOOK_SECONDS", 3600)
    monkeypatch.setattr(backpressure, "STALE_SECONDS", 3600)
    north, _ = callers(max_queued_per_tenant=PER_TENANT)
    assert [send(north).status_code for _ in range(PER_TENANT + 2)] == [202] * PER_TENANT + [429] * 2


def test_somebody_who_waits_for_a_stat_study_finds_room_where_others_do_not(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database
) -> None:
    north, _ = callers(max_queued_per_tenant=PER_TENANT)
    wait(clean_database, "north", PER_TENANT)
    problem_of(send(north, priority="routine"), 429, "queue-full")
    json_of(send(north, priority="stat"), 202)
    problem_of(send(north, priority="stat"), 429, "queue-full")


def test_when_all_together_have_too_many_everybody_is_refused_and_readiness_says_so(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database
) -> None:
    north, south = callers(max_queued=ALL)
    for name in ("north", "east"):
        wait(clean_database, name, ALL // 2)
    for caller in (north, south):
        refused = send(caller)
        problem_of(refused, 503, "overloaded")
        assert refused.headers["Retry-After"] == "15"
    assert checks(north)["queue"] == f"{ALL} jobs wait; nothing more is accepted"


def test_disks_keep_their_reserve_and_what_is_there_stays_to_be_seen(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database
) -> None:
    north, _ = callers(disk_reserve_bytes=HUGE)
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session, "north")).id
    upload = {"files": [{"size_bytes": 4, "sha256": "0" * 64}]}
    asked = [
        send(north),
        north.send(PNG, path="/v1/studies", modality="xray"),
        north.post("/v1/studies", json={"open": True, "modality": "xray"}),
        north.send(PNG, path="/v1/batches", modality="xray"),
        post_zip(north, packed(("a.png", PNG))),
        north.post("/v1/uploads", json=upload),
    ]
    for refused in asked:
        problem_of(refused, 503, "disk-full")
        assert refused.headers["Retry-After"] == "60"
    assert objects(north.client) == []
    assert checks(north)["disk"] == "a disk is nearly full; nothing was accepted"
    json_of(north.get(f"/v1/jobs/{job_id}"))
    json_of(north.post(f"/v1/jobs/{job_id}/cancel"))


def test_a_batch_that_finds_no_more_room_keeps_what_is_in_and_is_taken_up_again(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database
) -> None:
    """The client's part is to send it again: `thoraq batch` does, tests/acceptance/faults/test_backpressure.py."""
    north, _ = callers(max_queued_per_tenant=100)
    archive = packed(*((f"{n}.png", PNG + struct.pack("<I", n)) for n in range(200)))
    turns, in_ = 0, 0
    while (answer := post_zip(north, archive, key="night")).status_code == 429:
        problem = problem_of(answer, 429, "queue-full")
        assert in_ <= problem["next_item"] <= 200
        in_ = problem["next_item"]
        assert len(objects(north.client)) == in_
        turns += 1
        assert turns < 100
        work(clean_database)
        time.sleep(1.1)  # Retry-After, so to say: the door looks every second
    batch = json_of(answer, 202)
    work(clean_database)
    assert turns
    assert json_of(north.get(f"/v1/batches/{batch['id']}"))["counts"]["succeeded"] == 200
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Job.item).order_by(Job.item)).all() == list(range(200))
        assert len(set(session.scalars(sa.select(Image.object_key)))) == 200


def test_a_batch_whose_last_items_find_no_room_is_answered(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database
) -> None:
    """All of it has come by then: nobody may wait for more of it."""
    north, _ = callers(max_queued_per_tenant=PER_TENANT)
    wait(clean_database, "north", PER_TENANT)
    problem = problem_of(post_zip(north, packed(("a.png", PNG), ("b.png", PNG)), key="small"), 429, "queue-full")
    assert "batch_id" not in problem
    assert objects(north.client) == []


def test_looking_is_no_part_of_a_submission(
    callers: Callable[..., tuple[Caller, Caller]], clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    monkeypatch.setattr(Admission, "_count", _counted(Admission._count, looks))
    north, _ = callers()
    began = time.monotonic()
    for _ in range(20):
        json_of(send(north), 202)
    assert len(looks) <= 2 + (time.monotonic() - began) / backpressure.LOOK_SECONDS
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Job.priority == Priority.ROUTINE)) == 20


def _counted(count: Callable[[Admission], None], looks: list[None]) -> Callable[[Admission], None]:
    def counting(self: Admission) -> None:
        looks.append(None)
        count(self)

    return counting


def refuses(door: Admission) -> str | None:
    """The type of what it refuses everybody for."""
    try:
        door.check_capacity()
        door.admit("ten_1")
    except ThoraqError as error:
        return error.type
    return None


def test_while_the_database_is_away_nothing_is_taken_in_and_soon_after_it_is_back_everything(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backpressure, "LOOK_SECONDS", 0.1)
    server = Postgres(tmp_path / "postgres", secrets.token_hex(8), log=tmp_path / "log", options={"fsync": "off"})
    server.start()
    server.wait_ready()
    try:
        url = server.ensure_database("away")
        engine = sa.create_engine(url)
        upgrade(engine)
        engine.dispose()
        database = Database(settings.model_copy(update={"database_url": SecretStr(url)}))
        door = Admission(settings, database)
        assert refuses(door) is None
        server.kill()
        until(lambda: refuses(door) == Unavailable.type)
        assert door.problems()["queue"] == "the database does not answer"
        server.start()
        server.wait_ready()
        until(lambda: refuses(door) is None)
        database.close()
    finally:
        server.stop()


def test_a_full_broker_is_not_ready(callers: Callable[..., tuple[Caller, Caller]], settings: Settings) -> None:
    north, _ = callers()
    assert checks(north)["broker"] == "ok"
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as wire:
        wire.config_set("maxmemory", 1)
        try:
            assert checks(north)["broker"] == "the broker's memory is full; work goes on more slowly"
        finally:
            wire.config_set("maxmemory", 0)
    assert checks(north)["broker"] == "ok"
