"""Row-level security: whatever the API asks the database, PostgreSQL shows and takes the rows of one tenant alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from shared import keys
from shared.db.engine import API_ROLE, Database, TenantDatabase
from shared.db.tables import AuditEntry, Base, Job, Study, Tenant
from shared.jobs import reads
from tests.support.api import Caller
from tests.support.tenants import artifact, batch, complete_upload, endpoint, grave

TENANT_TABLES = sorted(table.name for table in Base.metadata.tables.values() if "tenant_id" in table.columns)
SHARED_TABLES = {"tenants", "model_bundles", "workers"}
POLICIES = sa.text("""
    SELECT c.relname, c.relrowsecurity AND p.polname IS NOT NULL AS secured, p.polcmd,
        pg_get_expr(p.polqual, c.oid) AS shown, pg_get_expr(p.polwithcheck, c.oid) AS taken
    FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace""")
BYPASSING = sa.text("""
    SELECT rolname FROM pg_roles
    WHERE pg_has_role(:role, oid, 'MEMBER') AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcanlogin)""")


@pytest.fixture
def hospitals(north: Caller, south: Caller, clean_database: Database) -> dict[str, str]:
    """Two hospitals' tenant ids by name; each has rows in every table that has a tenant."""
    for caller in (north, south):
        for make in (endpoint, artifact, batch, complete_upload, grave):
            make(caller)
        with clean_database.transaction() as session:
            fill_the_rest(session, caller)
    with clean_database.transaction() as session:
        return {tenant.name: tenant.id for tenant in session.scalars(sa.select(Tenant))}


def fill_the_rest(session: sa.orm.Session, caller: Caller) -> None:
    """What comes to be in the middle of things only: rows of batches that still arrive, an attempt, a repeated key."""
    tenant = keys.find(session, caller.key)
    assert tenant is not None
    row = {"tenant": tenant.tenant_id}
    for statement in (
        """INSERT INTO batch_files (batch_id, item, tenant_id, group_key, sha256, size_bytes)
        SELECT id, 7, tenant_id, '', '', 1 FROM batches WHERE tenant_id = :tenant""",
        """INSERT INTO batch_rejections (batch_id, item, tenant_id, problem)
        SELECT id, 7, tenant_id, '{}' FROM batches WHERE tenant_id = :tenant""",
        # As a delivery worker of the revision before writes it.
        """INSERT INTO delivery_attempts (delivery_id, number, duration_ms)
        SELECT id, 1, 1 FROM deliveries WHERE tenant_id = :tenant""",
        "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource_id) VALUES (:tenant, 'k', '', '')",
        """INSERT INTO page_sessions (id, tenant_id, key_id, expires_at)
        SELECT 'ses_' || id, tenant_id, id, now() FROM api_keys WHERE tenant_id = :tenant""",
    ):
        session.execute(sa.text(statement), row)


def test_every_table_of_tenants_has_its_policy(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        rows = {row.relname: row for row in session.execute(POLICIES)}
    for table in TENANT_TABLES:
        assert rows[table].secured, (
            f"{table}: its migration must call migrations.row_level_security.enable_row_level_security"
        )
        assert rows[table].polcmd == b"*" or rows[table].polcmd == "*"
        condition = "(tenant_id = current_setting('thoraq.tenant'::text, true))"
        assert (rows[table].shown, rows[table].taken) == (condition, condition)
    assert rows["tenants"].secured
    of_nobody = set(rows) - set(TENANT_TABLES)
    assert of_nobody == SHARED_TABLES | {"alembic_version"}, "a table without a tenant: whose is it?"


def test_the_role_of_the_api_cannot_bypass_row_level_security(
    clean_database: Database, api_database: TenantDatabase
) -> None:
    with clean_database.transaction() as session:
        assert session.scalars(BYPASSING, {"role": API_ROLE}).all() == []
        owned = sa.text("SELECT count(*) FROM pg_class WHERE relowner = CAST(:role AS regrole)")
        assert session.scalar(owned, {"role": API_ROLE}) == 0
    with api_database.transaction() as session:
        assert session.scalar(sa.text("SELECT current_user")) == API_ROLE


@pytest.mark.parametrize("table", [*TENANT_TABLES, "tenants"])
def test_a_query_without_a_filter_shows_one_tenants_rows(
    table: str, hospitals: dict[str, str], api_database: TenantDatabase, clean_database: Database
) -> None:
    column = "id" if table == "tenants" else "tenant_id"
    owner: sa.ColumnClause[str] = sa.column(column)
    everything = sa.select(owner).distinct().select_from(sa.table(table)).where(owner.is_not(None)).order_by(owner)
    with clean_database.transaction() as session:
        assert session.scalars(everything).all() == sorted(hospitals.values())
    for tenant in hospitals.values():
        with api_database.of(tenant).transaction() as session:
            assert session.scalars(everything).all() == [tenant]
        with api_database.of(tenant).single() as connection:
            assert connection.scalars(everything).all() == [tenant]
    with api_database.transaction() as session:
        assert session.scalars(everything).all() == []
    with api_database.single() as connection:
        assert connection.scalars(everything).all() == []


def test_readers_of_one_connection_see_their_own_rows(hospitals: dict[str, str], api_database: TenantDatabase) -> None:
    north, south = (api_database.of(hospitals[name]) for name in ("north", "south"))
    jobs = sa.select(Job.tenant_id).distinct()
    with api_database.single() as connection:
        process = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
    for view in (north, south, south, north):
        with view.transaction() as session, view.single() as connection:
            assert session.scalars(jobs).all() == connection.scalars(jobs).all()
        with view.single() as connection:
            assert connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one() is not None
            (tenant,) = connection.scalars(jobs).all()
        with view.transaction() as session:
            assert session.scalars(jobs).all() == [tenant]
            session.rollback()
    assert process


def test_rows_of_another_tenant_can_be_neither_written_nor_changed(
    hospitals: dict[str, str], api_database: TenantDatabase, clean_database: Database
) -> None:
    north, south = api_database.of(hospitals["north"]), hospitals["south"]
    before = rows_of(clean_database, south)
    foreign = Study(id="stu_x", tenant_id=south, modality="xray", image_count=0)
    with pytest.raises(ProgrammingError, match="row-level security"), north.transaction() as session:
        session.add(foreign)
    move = sa.update(Study).values(tenant_id=south)
    with pytest.raises(ProgrammingError, match="row-level security"), north.transaction() as session:
        session.execute(move)
    with north.transaction() as session:
        for statement in (sa.update(Study).values(external_id="mine"), sa.delete(Base.metadata.tables["artifacts"])):
            session.execute(statement)
    assert rows_of(clean_database, south) == before


def rows_of(database: Database, tenant: str) -> dict[str, list[sa.Row[tuple[object, ...]]]]:
    with database.transaction() as session:
        tables = (Base.metadata.tables[name] for name in TENANT_TABLES)
        return {
            table.name: list(session.execute(sa.select(table).where(table.c.tenant_id == tenant)).all())
            for table in tables
        }


@pytest.mark.parametrize("act", ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log"])
def test_the_audit_log_is_only_ever_added_to(
    act: str, hospitals: dict[str, str], api_database: TenantDatabase, clean_database: Database
) -> None:
    north = api_database.of(hospitals["north"])
    with pytest.raises(ProgrammingError, match="permission denied"), north.transaction() as session:
        session.execute(sa.text(act))
    with pytest.raises(ProgrammingError, match="only ever added to"), clean_database.transaction() as session:
        session.execute(sa.text(act))
    with north.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(AuditEntry))


def test_a_statement_without_a_tenants_transaction_is_not_run(api_database: TenantDatabase) -> None:
    with pytest.raises(KeyError), api_database.engine.connect() as connection:
        connection.execute(sa.select(Tenant.id))


def shape(plan: dict[str, Any]) -> object:
    """What a plan does, without what it costs: the nodes and the indexes that they use."""
    parts = [shape(child) for child in plan.get("Plans", [])]
    # Above the rest, and once a statement: is the tenant that the query names the one that the connection speaks for?
    return parts[0] if plan["Node Type"] == "Result" and parts else [plan["Node Type"], plan.get("Index Name"), *parts]


PLANS = {
    "list": ("SELECT * FROM jobs WHERE tenant_id = :t ORDER BY id DESC LIMIT 50", {"t": "t1"}),
    "study": ("SELECT * FROM studies WHERE id = :id AND tenant_id = :t", {"id": "stu_7", "t": "t1"}),
    "line": (
        """SELECT id FROM jobs WHERE state = 'queued' AND not_before IS NULL AND tenant_id = :t AND rank = 1
        ORDER BY queued_at, id LIMIT 5""",
        {"t": "t1"},
    ),
}


#: Rows enough for plans that are those of full tables.
FULL = (
    "INSERT INTO tenants (id, name) SELECT 't' || n, 'hospital ' || n FROM generate_series(1, 5) n",
    """INSERT INTO studies (id, tenant_id, modality, image_count)
    SELECT 'stu_' || n, 't' || (n % 5 + 1), 'xray', 1 FROM generate_series(1, 4000) n""",
    """INSERT INTO jobs (id, tenant_id, study_id, classifier, priority, rank, state)
    SELECT 'job_' || n, 't' || (n % 5 + 1), 'stu_' || n, 'binary', 'routine', 1, 'queued'
    FROM generate_series(1, 4000) n""",
    "ANALYZE studies, jobs, results, model_bundles",
)


def test_the_policies_leave_the_plans_as_they_are(clean_database: Database, api_database: TenantDatabase) -> None:
    with clean_database.transaction() as session:
        for statement in FULL:
            session.execute(sa.text(statement))
    poll = re.sub(r"%\((\w+)\)s::VARCHAR", r":\1", str(reads._ONE.compile(clean_database.engine)))
    plans = PLANS | {"poll": (poll, {"job_id": "job_7", "tenant_id": "t1"})}
    for name, (statement, values) in plans.items():
        explain, found = sa.text(f"EXPLAIN (FORMAT JSON) {statement}"), []
        for database in (clean_database, api_database.of("t1")):
            with database.transaction() as session:
                found.append(shape(session.execute(explain, values).scalar_one()[0]["Plan"]))
        assert found[0] == found[1], name
