"""thoraq-admin doctor: a sound system is found sound, every fault by its name, and it is mended where it may be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from admin.doctor import Doctor, Finding
from admin.invariants import INVARIANTS
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import AuditEntry, Batch, Delivery, Image, Job, JobState
from shared.jobs import states
from shared.storage import FolderStorage, Storage
from tests.support.rows import POLICY, add_batch, add_bundle, add_endpoint, add_job, add_tenant, answer, take

HOUR_AGO = sa.text("now() - interval '1 hour'")


@dataclass(frozen=True)
class System:
    """A hospital with an endpoint; two jobs of a complete batch that have ended, and one job that waits."""

    settings: Settings
    database: Database
    storage: Storage
    storage_dir: Path
    ended: list[str]
    live: str
    batch: str

    def findings(self, *, repair: bool = False) -> dict[str, Finding]:
        """What the doctor says, by invariant."""
        found = Doctor(self.settings, self.database, self.storage, repair=repair).examine()
        return {finding.invariant: finding for finding in found}

    def broken(self, *, repair: bool = False) -> dict[str, tuple[str, ...]]:
        """The invariants that do not hold, with the ids that break them."""
        return {name: found.ids for name, found in self.findings(repair=repair).items() if found.ids}


@pytest.fixture
def system(settings: Settings, clean_database: Database, tmp_path: Path) -> System:
    storage = FolderStorage(tmp_path / "objects")
    storage.prepare()
    with clean_database.transaction() as session:
        add_bundle(session)
        tenant = add_tenant(session)
        add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        session.execute(sa.text("UPDATE webhook_endpoints SET changed_at = now() - interval '1 hour'"))
        batch = add_batch(session, tenant, total=2)
        ended = [add_job(session, tenant, batch=batch).id for _ in range(2)]
        for job_id in ended:
            session.add(AuditEntry(tenant_id=tenant.id, actor="key", action="job.submit", subject=job_id))
    with clean_database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    with clean_database.transaction() as session:
        live = add_job(session, tenant).id
        stored = storage.put(f"{tenant.id}/live", BytesIO(b"picture"))
        mine = Image.study_id == session.get_one(Job, live).study_id
        session.execute(sa.update(Image).where(mine).values(object_key=stored.key, sha256=stored.sha256))
    return System(settings, clean_database, storage, tmp_path / "objects", sorted(ended), live, batch.id)


def admin(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The command with its output."""
    return subprocess.run(
        [sys.executable, "-m", "admin", *words], env=environment, capture_output=True, text=True, check=False
    )


def unguarded(session: Session, *statements: str, **values: object) -> None:
    """As somebody with psql and no triggers in the way would do it."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for statement in statements:
        session.execute(sa.text(statement), values)


def test_a_sound_system_is_found_sound(system: System) -> None:
    findings = system.findings()
    assert {name: found.ids for name, found in findings.items() if found.ids} == {}
    assert len(findings) == len(INVARIANTS) + 3  # the objects of live jobs, bundles, orphans


Break = Callable[[System, Session], tuple[str, ...]]


def lose_a_job(system: System, session: Session) -> tuple[str, ...]:
    unguarded(
        session,
        "DELETE FROM images USING jobs WHERE jobs.study_id = images.study_id AND jobs.id = :id",
        "DELETE FROM jobs WHERE id = :id",
        "INSERT INTO audit_log (actor, action, subject) VALUES ('key', 'job.submit', :id)",
        id=system.live,
    )
    return (system.live,)


def lose_a_result(system: System, session: Session) -> tuple[str, ...]:
    unguarded(session, "DELETE FROM results WHERE job_id = :id", id=system.ended[0])
    return (system.ended[0],)


def make_up_a_result(system: System, session: Session) -> tuple[str, ...]:
    unguarded(session, "UPDATE results SET job_id = :live WHERE job_id = :id", live=system.live, id=system.ended[0])
    return (system.live,)


def forget_a_lease(system: System, session: Session) -> tuple[str, ...]:
    take(session)
    session.execute(sa.update(Job).where(Job.id == system.live).values(lease_until=HOUR_AGO))
    return (system.live,)


def count_wrongly(system: System, session: Session) -> tuple[str, ...]:
    session.execute(sa.update(Batch).values(succeeded=7))
    return (system.batch,)


def leave_a_batch_open(system: System, session: Session) -> tuple[str, ...]:
    unguarded(session, "DELETE FROM deliveries USING events e WHERE e.id = event_id AND e.batch_id IS NOT NULL")
    unguarded(session, "DELETE FROM events WHERE batch_id IS NOT NULL")
    session.execute(sa.update(Batch).values(completed_at=None))
    return (system.batch,)


def lose_an_item(system: System, session: Session) -> tuple[str, ...]:
    session.execute(sa.update(Batch).values(total=3))
    return (system.batch,)


def lose_a_delivery(system: System, session: Session) -> tuple[str, ...]:
    unguarded(
        session, "DELETE FROM deliveries USING events e WHERE e.id = event_id AND e.job_id = :id", id=system.ended[0]
    )
    return (system.ended[0],)


def lose_an_event(system: System, session: Session) -> tuple[str, ...]:
    lose_a_delivery(system, session)
    unguarded(session, "DELETE FROM events WHERE job_id = :id", id=system.ended[0])
    return (system.ended[0],)


def tell_a_lie(system: System, session: Session) -> tuple[str, ...]:
    lie = "UPDATE events SET type = 'job.failed' WHERE job_id = :id RETURNING id"
    return tuple(session.scalars(sa.text(lie), {"id": system.ended[0]}))


def damage_an_object(system: System, session: Session) -> tuple[str, ...]:
    key = session.scalars(
        sa.select(Image.object_key).join(Job, Job.study_id == Image.study_id).where(Job.id == system.live)
    ).one()
    assert key is not None
    system.storage.put(key, BytesIO(b"another picture"))
    return (key,)


def lose_an_object(system: System, session: Session) -> tuple[str, ...]:
    (key,) = damage_an_object(system, session)
    system.storage.delete(key)
    return (key,)


def leave_an_object(system: System, _: Session) -> tuple[str, ...]:
    stored = system.storage.put("ten_1/orphan", BytesIO(b"x"))
    os.utime(system.storage_dir / stored.key, (0, 0))
    return (stored.key,)


MENDED: dict[Break, str] = {
    forget_a_lease: "no lease ran out more than two sweeps ago",
    count_wrongly: "a batch counts its jobs rightly",
    leave_a_batch_open: "a batch is complete when all of it is in and nothing of it is left to do",
    lose_a_delivery: "what ended has one delivery per endpoint that was subscribed",
    lose_an_event: "what ended has one delivery per endpoint that was subscribed",
    leave_an_object: "no object without a row is older than a day",
}
TOLD: dict[Break, str] = {
    lose_a_job: "every accepted job and batch is there",
    lose_an_item: "every item of a batch is a job or was rejected",
    lose_a_result: "a job that succeeded has a result",
    make_up_a_result: "a result belongs to a job that succeeded",
    tell_a_lie: "an event tells what became of its job, once",
    damage_an_object: "every live job's object is there, with its SHA-256",
    lose_an_object: "every live job's object is there, with its SHA-256",
}


def harm(system: System, harm: Break) -> tuple[str, ...]:
    with system.database.transaction() as session:
        return harm(system, session)


@pytest.mark.parametrize(("act", "invariant"), MENDED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_may_be_mended_is_found_and_mended(system: System, act: Break, invariant: str) -> None:
    ids = harm(system, act)
    assert system.broken() == {invariant: ids}
    assert system.findings(repair=True)[invariant] == Finding(invariant, (), len(ids))
    assert system.broken() == {}
    with system.database.transaction() as session:
        states = set(session.scalars(sa.select(Job.state)))
        assert states == {JobState.SUCCEEDED, JobState.QUEUED}


@pytest.mark.parametrize(("act", "invariant"), TOLD.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_may_not_be_mended_is_told_each_time(system: System, act: Break, invariant: str) -> None:
    ids = harm(system, act)
    assert system.broken()[invariant] == ids
    assert system.broken(repair=True)[invariant] == ids


def test_a_delivery_that_is_made_again_has_the_id_that_it_had(system: System) -> None:
    def deliveries() -> set[str]:
        with system.database.transaction() as session:
            return set(session.scalars(sa.select(Delivery.id)))

    before = deliveries()
    harm(system, lose_a_delivery)
    system.findings(repair=True)
    assert deliveries() == before


def test_an_endpoint_that_has_changed_since_is_not_held_to_what_was_before(system: System) -> None:
    with system.database.transaction() as session:
        add_endpoint(session, add_tenant(session), "http://127.0.0.1:9/newer")
        session.execute(sa.text("UPDATE webhook_endpoints SET events = '{job.failed}' WHERE url LIKE '%hook'"))
    assert system.broken() == {}


def test_the_command_prints_a_table_and_json_and_exits_with_1_until_all_is_mended(
    system: System, settings_env: dict[str, str]
) -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
    environment = ours | settings_env | {"THORAQ_STORAGE_DIR": str(system.storage_dir)}
    harm(system, count_wrongly)
    done = admin(environment, "doctor", "--json")
    assert done.returncode == 1
    (row,) = [row for row in json.loads(done.stdout) if row["violations"]]
    assert row == {"invariant": MENDED[count_wrongly], "violations": 1, "mended": 0, "ids": [system.batch]}
    table = admin(environment | {"COLUMNS": "200"}, "doctor")
    assert table.returncode == 1
    assert system.batch in table.stdout
    repaired = admin(environment | {"COLUMNS": "200"}, "doctor", "--repair")
    assert repaired.returncode == 0, repaired.stdout
    assert re.search(MENDED[count_wrongly] + r" +0 +1\b", repaired.stdout), repaired.stdout
    assert admin(environment, "doctor").returncode == 0
    with system.database.transaction() as session:
        acts = session.scalars(sa.select(AuditEntry.subject).where(AuditEntry.action == "doctor.repair")).all()
    assert acts == [MENDED[count_wrongly]]
