"""thoraq-admin, as an operator runs it, on a real database and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared import jobs, keys
from shared.db import Database
from shared.models import ApiKey, AuditEntry, Image, Job
from shared.storage import FolderStorage, Storage
from tests.queue_support import POLICY, add_batch, add_bundle, add_endpoint, add_job, add_tenant, answer, take


@pytest.fixture
def environment(settings_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The command's environment, with a store of its own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
    return ours | settings_env | {"THORAQ_STORAGE_DIR": str(tmp_path / "objects")}


@pytest.fixture
def storage(environment: dict[str, str]) -> Storage:
    """That store, ready."""
    storage = FolderStorage(Path(environment["THORAQ_STORAGE_DIR"]))
    storage.prepare()
    return storage


def admin(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The command with its output."""
    command = [sys.executable, "-m", "admin", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_new_key_works_until_it_is_revoked(environment: dict[str, str], clean_database: Database) -> None:
    made = json.loads(admin(environment, "keys", "create", "--tenant", "North", "--name", "pacs", "--json").stdout)
    with clean_database.transaction() as session:
        found = keys.find(session, made["key"])
        assert found is not None
        assert (found.tenant_id, found.id) == (made["tenant"], made["id"])
    listed = admin(environment, "keys", "list", "--json").stdout
    assert made["id"] in listed
    assert made["key"] not in listed
    assert admin(environment, "keys", "revoke", made["id"]).returncode == 0
    with clean_database.transaction() as session:
        assert keys.find(session, made["key"]) is None
        actions = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert actions == ["key.create", "key.revoke"]
    assert admin(environment, "keys", "revoke", made["id"]).returncode == 1


def test_the_key_itself_is_not_stored(environment: dict[str, str], clean_database: Database) -> None:
    key = admin(environment, "keys", "create", "--tenant", "North", "--name", "pacs").stdout.strip()
    with clean_database.transaction() as session:
        (row,) = session.execute(sa.select(ApiKey.__table__))
    assert key not in str(row)
    assert key.startswith("tq_")
    assert len(key) >= 46  # 256 bits in base64


@pytest.mark.usefixtures("clean_database")
def test_unknown_scopes_and_settings_are_refused(environment: dict[str, str]) -> None:
    refused = admin(environment, "keys", "create", "--tenant", "North", "--name", "x", "--scopes", "everything")
    assert refused.returncode == 2
    refused = admin(environment | {"THORAQ_BATCHSIZE": "8"}, "keys", "list")
    assert refused.returncode == 1
    assert "THORAQ_BATCHSIZE is not a setting" in refused.stderr


def doctor(environment: dict[str, str]) -> tuple[int, dict[str, int]]:
    """The exit code, and the violations of each invariant."""
    done = admin(environment, "doctor", "--json")
    return done.returncode, {row["invariant"]: row["violations"] for row in json.loads(done.stdout)}


def test_the_doctor_finds_a_sound_system_sound(
    environment: dict[str, str], clean_database: Database, storage: Storage
) -> None:
    with clean_database.transaction() as session:
        add_bundle(session)
        tenant = add_tenant(session)
        add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        batch = add_batch(session, tenant, total=2)
        done = add_job(session, tenant, batch=batch).id
        add_job(session, tenant, batch=batch)
        stored = storage.put(f"{tenant.id}/0", BytesIO(b"picture"))
        session.execute(sa.update(Image).values(sha256=stored.sha256))
    with clean_database.transaction() as session:
        jobs.finish(session, [answer(claim) for claim in take(session) if claim.job_id == done], POLICY)
    code, violations = doctor(environment)
    assert code == 0, violations
    assert set(violations.values()) == {0}


def test_the_doctor_finds_what_is_broken(
    environment: dict[str, str], clean_database: Database, storage: Storage
) -> None:
    stored = storage.put("ten_1/orphan", BytesIO(b"x"))
    os.utime(Path(environment["THORAQ_STORAGE_DIR"]) / stored.key, (0, 0))
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        batch = add_batch(session, tenant, total=1)
        add_job(session, tenant, batch=batch)
        take(session)
        session.execute(sa.update(Job).values(lease_until=sa.func.now() - sa.text("interval '1 hour'")))
        session.execute(sa.text("UPDATE batches SET running = 7"))
    code, violations = doctor(environment)
    assert code == 1
    assert violations["no lease ran out over a minute ago"] == 1
    assert violations["a batch counts its jobs rightly"] == 1
    assert violations["no object without a row is older than two days"] == 1
    assert violations["every live job's object is there, with its SHA-256"] == 1


@pytest.mark.usefixtures("clean_database")
def test_migrate_makes_the_bucket(minio_env: dict[str, str], environment: dict[str, str]) -> None:
    elsewhere = environment | minio_env | {"THORAQ_MINIO_BUCKET": "made-by-migrate"}
    assert admin(elsewhere, "migrate").stdout == "migrated\n"
    assert admin(elsewhere, "migrate").returncode == 0
    assert admin(elsewhere, "doctor").returncode == 0
