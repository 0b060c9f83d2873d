"""thoraq-admin, as an operator runs it, on a real database and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from shared import keys
from shared.config import parse
from shared.db.engine import Database, TenantDatabase
from shared.db.tables import ApiKey, AuditEntry, Image, ModelBundle, Tenant, Worker
from shared.inference.bundle import Bundle
from shared.storage import FolderStorage, Storage, object_key
from tests.support.bundles.tiny import write_bundle
from tests.support.rows import BUNDLE, add_bundle, add_job, add_tenant


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


def test_migrate_makes_the_login_of_the_api(environment: dict[str, str], clean_database: Database) -> None:
    owners = sa.make_url(environment["THORAQ_DATABASE_URL"])
    for password in ("first", "second"):
        url = owners.set(username="thoraq_test_login", password=password).render_as_string(hide_password=False)
        done = admin(environment | {"THORAQ_API_DATABASE_URL": url}, "migrate")
        assert done.returncode == 0, done.stderr
        api = TenantDatabase(parse(environment | {"THORAQ_DATABASE_URL": url}))
        with clean_database.transaction() as session:
            tenant = keys.tenant_named(session, "North").id
        with api.of(tenant).transaction() as session:
            assert session.scalars(sa.select(Tenant.name)).all() == ["North"]
        for role in ("NONE", owners.username):
            with api.transaction() as session, suppress(ProgrammingError):
                session.execute(sa.text(f"SET ROLE {role}"))
                assert session.scalars(sa.select(Tenant.name)).all() == []
        api.close()


def test_the_owner_is_no_login_for_the_api(environment: dict[str, str]) -> None:
    refused = admin(environment | {"THORAQ_API_DATABASE_URL": environment["THORAQ_DATABASE_URL"]}, "migrate")
    assert refused.returncode == 1
    assert "names the owner" in refused.stderr


@pytest.mark.usefixtures("clean_database")
def test_migrate_makes_the_bucket(minio_env: dict[str, str], environment: dict[str, str]) -> None:
    elsewhere = environment | minio_env | {"THORAQ_MINIO_BUCKET": "made-by-migrate"}
    assert admin(elsewhere, "migrate").stdout == "migrated\n"
    assert admin(elsewhere, "migrate").returncode == 0
    assert admin(elsewhere, "doctor").returncode == 0


@pytest.mark.usefixtures("storage")
def test_migrate_makes_no_second_store_for_a_database_that_names_objects(
    environment: dict[str, str], clean_database: Database, tmp_path: Path
) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        add_job(session, tenant)
        session.execute(sa.update(Image).values(object_key=object_key(tenant.id)))
    assert admin(environment, "migrate").returncode == 0
    elsewhere = environment | {"THORAQ_STORAGE_DIR": str(tmp_path / "elsewhere")}
    refused = admin(elsewhere, "migrate")
    assert refused.returncode == 1
    assert "the object store is empty, and the database names objects" in refused.stderr
    assert not (tmp_path / "elsewhere").exists()
    assert admin(elsewhere, "objects", "import", str(tmp_path / "objects")).returncode == 0
    assert admin(elsewhere, "migrate").returncode == 0


def listed(environment: dict[str, str]) -> dict[str, dict[str, object]]:
    """The bundles that the command lists, by name."""
    return {row["name"]: row for row in json.loads(admin(environment, "models", "list", "--json").stdout)}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle in a folder."""
    return write_bundle(tmp_path / "second")


@pytest.mark.usefixtures("storage")
def test_a_pushed_bundle_is_stored_and_is_active_once_it_is_activated(
    environment: dict[str, str], clean_database: Database, bundle: Bundle, tmp_path: Path
) -> None:
    done = admin(environment, "models", "push", str(bundle.path))
    assert (done.returncode, done.stdout) == (0, f"pushed second {bundle.sha256}\n"), done.stderr
    second = listed(environment)["second"]
    assert (second["sha256"], second["stored"], second["active"]) == (bundle.sha256, True, False)
    third = write_bundle(tmp_path / "third")
    assert admin(environment, "models", "push", str(third.path), "--activate").returncode == 0
    assert [name for name, row in listed(environment).items() if row["active"]] == ["third"]
    for which in ("second", third.sha256[:8], bundle.sha256):
        assert admin(environment, "models", "activate", which).returncode == 0
    assert [name for name, row in listed(environment).items() if row["active"]] == ["second"]
    with clean_database.transaction() as session:
        acts = session.execute(sa.select(AuditEntry.action, AuditEntry.subject).order_by(AuditEntry.id)).all()
    assert [tuple(act) for act in acts] == [
        ("model.push", bundle.sha256),
        ("model.push", third.sha256),
        ("model.activate", third.sha256),
        ("model.activate", bundle.sha256),
        ("model.activate", third.sha256),
        ("model.activate", bundle.sha256),
    ]


def damage(bundle: Bundle) -> None:
    """One byte more in a file that the card pins."""
    (bundle.path / "backbone.safetensors").write_bytes((bundle.path / "backbone.safetensors").read_bytes() + b"x")


def add_a_file(bundle: Bundle) -> None:
    """A file that the card does not list."""
    (bundle.path / "extra.py").write_text("print()")


def lose_a_file(bundle: Bundle) -> None:
    """A file that the card lists is not there."""
    (bundle.path / "head.json").unlink()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (damage, "backbone.safetensors: its SHA-256 is not the one in card.json"),
        (add_a_file, "extra.py: not listed in the bundle's card.json"),
        (lose_a_file, "head.json: cannot be read"),
    ],
)
def test_a_folder_that_is_not_what_its_card_says_is_not_pushed(
    environment: dict[str, str],
    clean_database: Database,
    storage: Storage,
    bundle: Bundle,
    fault: Callable[[Bundle], None],
    reason: str,
) -> None:
    fault(bundle)
    refused = admin(environment, "models", "push", str(bundle.path), "--activate")
    assert refused.returncode == 1
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(storage.list("models/")) == []
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(ModelBundle)).all() == []


@pytest.mark.usefixtures("storage", "clean_database")
def test_a_bundle_that_lacks_a_classifier_is_not_pushed(environment: dict[str, str], tmp_path: Path) -> None:
    half = write_bundle(tmp_path / "half", heads=(("binary", "xray"),))
    refused = admin(environment, "models", "push", str(half.path))
    assert refused.returncode == 1
    assert "has no binary classifier for ct" in refused.stderr


@pytest.mark.usefixtures("clean_database")
def test_what_is_altered_in_the_store_is_found_and_not_activated(
    environment: dict[str, str], storage: Storage, bundle: Bundle
) -> None:
    good = write_bundle(bundle.path.parent / "good")
    for one in (good, bundle):
        assert admin(environment, "models", "push", str(one.path)).returncode == 0
    assert admin(environment, "models", "activate", "good").returncode == 0
    assert admin(environment | {"THORAQ_MODEL_DIR": str(good.path)}, "models", "verify").returncode == 0
    storage.put(f"models/{bundle.sha256}/head.json", BytesIO(b"{ }"))
    refused = admin(environment, "models", "activate", "second")
    assert refused.returncode == 1
    assert "second is damaged, push it again: head.json: its SHA-256" in refused.stderr
    assert listed(environment)["good"]["active"] is True
    found = admin(environment | {"THORAQ_MODEL_DIR": str(good.path)}, "models", "verify", "--json")
    assert found.returncode == 1
    problems = {row["name"] for row in json.loads(found.stdout) if row["problem"]}
    assert problems == {"second"}
    doctor = admin(environment, "doctor", "--json")
    assert {row["invariant"]: row["ids"] for row in json.loads(doctor.stdout) if row["violations"]} == {
        "every stored model bundle is whole": [bundle.sha256]
    }
    assert admin(environment, "models", "push", str(bundle.path)).returncode == 0
    assert admin(environment, "models", "activate", "second").returncode == 0


@pytest.mark.usefixtures("storage")
def test_what_cannot_be_activated_is_told(
    environment: dict[str, str], clean_database: Database, tmp_path: Path
) -> None:
    with clean_database.transaction() as session:
        add_bundle(session)  # some worker has served it from its own disk
    for version in ("1", "2"):
        twin = write_bundle(tmp_path / version / "twin", version=version)
        assert admin(environment, "models", "push", str(twin.path)).returncode == 0
    for which, reason in {
        "nonsense": "no model bundle is called nonsense",
        "test": "test is not in the object store: push its folder first",
        "twin": twin.sha256,
    }.items():
        refused = admin(environment, "models", "activate", which)
        assert refused.returncode == 1
        assert reason in refused.stderr
    assert [name for name, row in listed(environment).items() if row["active"]] == []


@pytest.mark.usefixtures("storage")
def test_the_list_says_who_serves_what_and_why_not_another(
    environment: dict[str, str], clean_database: Database, bundle: Bundle
) -> None:
    assert admin(environment, "models", "push", str(bundle.path), "--activate").returncode == 0
    with clean_database.transaction() as session:
        add_bundle(session)
        session.add(Worker(name="new", queue="classify", bundle_sha256=bundle.sha256))
        session.add(Worker(name="old", queue="classify", bundle_sha256=BUNDLE, bundle_problem="it is damaged"))
        gone = sa.func.now() - sa.text("interval '1 hour'")
        session.add(Worker(name="gone", queue="classify", bundle_sha256=BUNDLE, seen_at=gone))
    rows = listed(environment)
    assert (rows["second"]["workers"], rows["second"]["refused"]) == (["new"], [])
    assert (rows["test"]["workers"], rows["test"]["refused"]) == (["old"], ["old: it is damaged"])
    shown = admin(environment | {"COLUMNS": "250"}, "models", "list").stdout
    assert "old: it is damaged" in shown


def test_a_tenants_settings_are_changed_and_the_change_is_recorded(
    environment: dict[str, str], clean_database: Database
) -> None:
    with clean_database.transaction() as session:
        add_tenant(session, "North")
        add_tenant(session, "South")
    words = ("tenants", "set", "North", "--keep-identity", "--expires-after-days", "30", "--stat-share", "5")
    assert admin(environment, *words).returncode == 0
    north, south = json.loads(admin(environment, "tenants", "list", "--json").stdout)
    names = ("name", "keep_identity", "expires_after_days", "stat_share")
    assert [north[name] for name in names] == ["North", True, 30, 5]
    assert [south[name] for name in names] == ["South", False, None, 50]
    assert admin(environment, "tenants", "set", "North", "--deidentify", "--expires-after-days", "0").returncode == 0
    with clean_database.transaction() as session:
        tenant = session.scalars(sa.select(Tenant).where(Tenant.name == "North")).one()
        assert (tenant.keep_identity, tenant.expires_after_days) == (False, None)
        secret = tenant.uid_secret
        acts = session.execute(sa.select(AuditEntry.action, AuditEntry.subject)).all()
    assert acts == [("tenant.set", tenant.id)] * 2
    assert secret not in admin(environment, "tenants", "list", "--json").stdout
    assert admin(environment, "tenants", "set", "North").returncode == 2
    assert admin(environment, "tenants", "set", "West", "--deidentify").returncode == 1
