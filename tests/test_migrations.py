"""The migrations, the tables of shared/db/tables.py and shared/db/schema.sql describe the same schema."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from migrations.upgrade import upgrade
from shared.db.tables import Base
from standalone.services import Postgres
from tests.schema_dump import FILE, dumped

CONSTRAINTS = sa.text("""
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
    AND contype <> 't' ORDER BY 1, 2""")
INDEXES = sa.text("""
    SELECT tablename, indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1, 2""")


@pytest.fixture
def migrated(postgres: Postgres) -> Iterator[sa.Engine]:
    """A database that the migrations made."""
    engine = sa.create_engine(postgres.ensure_database("thoraq_migrated"))
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def modelled(postgres: Postgres) -> Iterator[sa.Engine]:
    """A database that the models made."""
    engine = sa.create_engine(postgres.ensure_database("thoraq_modelled"))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_autogenerate_finds_nothing_to_do(migrated: sa.Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize("query", [CONSTRAINTS, INDEXES], ids=["constraints", "indexes"])
def test_constraints_and_indexes_are_the_same(migrated: sa.Engine, modelled: sa.Engine, query: sa.TextClause) -> None:
    with migrated.connect() as one, modelled.connect() as other:
        assert one.execute(query).all() == other.execute(query).all()


def test_schema_sql_is_what_the_migrations_add_up_to(migrated: sa.Engine, postgres: Postgres) -> None:
    dump = dumped(postgres, str(migrated.url.database))
    assert FILE.read_text(encoding="utf-8").splitlines() == dump.splitlines(), "run `python -m tests.schema_dump`"


def test_migrators_that_start_together_migrate_once(postgres: Postgres) -> None:
    engine = sa.create_engine(postgres.ensure_database("thoraq_raced"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, [engine] * 4))  # without the lock, all but one would find the tables there
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
    engine.dispose()


def test_upgrading_again_changes_nothing(migrated: sa.Engine) -> None:
    upgrade(migrated)
    with migrated.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
