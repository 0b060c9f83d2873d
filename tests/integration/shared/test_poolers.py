"""Tenants are kept apart and timeouts hold behind PgBouncer, which hands server connections on between transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from pydantic import SecretStr

from api import create_app
from api.http.services import EXTENSION
from shared.config import Settings
from shared.db.engine import API_ROLE, LOGIN_DEFAULTS, Database, TenantDatabase
from shared.db.tables import Study, Tenant
from shared.errors import Unavailable, UnguardedDatabase
from tests.support.api import Caller, MakeApp, json_of, problem_of
from tests.support.servers.pgbouncer import PgBouncer

TENANTS = sa.text("SELECT DISTINCT tenant_id FROM studies")
ADDRESS = sa.text("SELECT pg_backend_pid()")


@pytest.fixture(params=["", "options"], ids=["refuses-options", "ignores-options"])
def pooler(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode before the tests' database."""
    server = PgBouncer(tmp_path, settings.database_url.get_secret_value(), ignored=request.param)
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def pooled(settings: Settings, pooler: PgBouncer) -> Settings:
    """The settings of an API that reaches PostgreSQL through the pooler, as the owner."""
    return settings.model_copy(update={"database_url": SecretStr(pooler.url)})


@pytest.fixture
def two_tenants(clean_database: Database) -> list[str]:
    """Two tenants with a study each."""
    names = ["ten_a", "ten_b"]
    with clean_database.transaction() as session:
        for name in names:
            session.add(Tenant(id=name, name=name))
            session.flush()
            session.add(Study(id=f"stu_{name}", tenant_id=name, modality="xray", image_count=0))
    return names


@contextmanager
def opened(settings: Settings) -> Iterator[TenantDatabase]:
    """A connection pool of an API process; a second one is another process to the pooler."""
    database = TenantDatabase(settings)
    try:
        yield database
    finally:
        database.close()


def test_clients_that_share_a_server_connection_see_their_own_rows(pooled: Settings, two_tenants: list[str]) -> None:
    servers = set()
    with opened(pooled) as one, opened(pooled) as other:
        a, b = two_tenants
        # No statement six times on one connection: from then on it is prepared, which this PgBouncer does not know.
        for tenant, database in [(a, one), (b, other), (b, one), (a, other)]:
            with database.of(tenant).single() as connection:
                assert connection.scalars(TENANTS).all() == [tenant]
                servers.add(connection.scalar(ADDRESS))
            with database.of(tenant).transaction() as session:
                assert session.scalars(TENANTS).all() == [tenant]
                servers.add(session.scalar(ADDRESS))
        for database in (one, other):
            with database.single() as connection:
                assert connection.scalars(TENANTS).all() == []
    assert len(servers) == 1, "the pooler gave each client a server connection of its own: nothing was tried"


def test_a_pooler_that_loses_prepared_statements_is_named(pooled: Settings, two_tenants: list[str]) -> None:
    def read(*databases: TenantDatabase) -> None:
        for database in databases * 10:
            with database.of(two_tenants[0]).single() as connection:
                connection.execute(TENANTS)

    with opened(pooled) as one, opened(pooled) as other, pytest.raises(Unavailable, match="loses prepared statements"):
        read(one, other)


def test_nothing_of_a_tenant_stays_with_a_server_connection(
    pooled: Settings, pooler: PgBouncer, two_tenants: list[str]
) -> None:
    with opened(pooled) as database, database.of(two_tenants[0]).single() as connection:
        connection.execute(TENANTS)
        server = connection.scalar(ADDRESS)
    plain = sa.create_engine(pooler.url)
    left = sa.text(
        "SELECT pg_backend_pid(), current_user, current_setting('thoraq.tenant', true), current_setting('lock_timeout')"
    )
    with plain.connect() as connection:
        process, user, tenant, timeout = connection.execute(left).one()
    plain.dispose()
    assert process == server
    assert user != API_ROLE
    assert tenant in {None, ""}
    assert timeout == LOGIN_DEFAULTS["lock_timeout"]


def test_timeouts_hold_behind_a_pooler(pooled: Settings, clean_database: Database) -> None:
    del clean_database  # it is migrated, and so the login has its defaults
    with opened(pooled) as database:
        database.check_guards()
        database.check_timeouts()
        with database.transaction() as session:
            for name, value in LOGIN_DEFAULTS.items():
                assert session.scalar(sa.select(sa.func.current_setting(name))) == value


@pytest.fixture
def unprotected(clean_database: Database) -> Iterator[None]:
    """A table of tenants that somebody took row-level security from."""
    with clean_database.transaction() as session:
        session.execute(sa.text("ALTER TABLE jobs DISABLE ROW LEVEL SECURITY"))
    yield
    with clean_database.transaction() as session:
        session.execute(sa.text("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY"))


@pytest.mark.usefixtures("unprotected")
def test_an_api_does_not_start_over_a_table_without_row_level_security(settings: Settings) -> None:
    with pytest.raises(SystemExit, match="row-level security is not active for thoraq_api on jobs"):
        create_app(settings)


def test_an_api_that_runs_answers_503_with_the_reason(
    app: Flask, north: Caller, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("unprotected")
    app.extensions[EXTENSION].database.engine.dispose()
    problem = problem_of(north.get("/v1/jobs"), 503, "unguarded-database")
    assert "row-level security is not active for thoraq_api on jobs" in problem["detail"]
    assert "row-level security" in json_of(north.get("/readyz"), 503)["checks"]["database"]


def test_a_login_without_timeouts_is_named(settings: Settings, clean_database: Database, make_app: MakeApp) -> None:
    change = "ALTER ROLE CURRENT_USER IN DATABASE thoraq_test {} lock_timeout"
    with clean_database.transaction() as session:
        session.execute(sa.text(change.format("RESET")))
    database = Database(settings)
    try:
        with pytest.raises(UnguardedDatabase, match="no lock_timeout: run thoraq-admin migrate"):
            database.check_timeouts()
        with pytest.raises(SystemExit, match="no lock_timeout"):
            make_app()
    finally:
        with clean_database.transaction() as session:
            session.execute(sa.text(change.format("SET") + " = '10s'"))
    database.check_timeouts()
    database.close()
