"""Bring a database to the newest revision, one migrator at a time."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from migrations.login_defaults import set_login_defaults

# Any constant serves; all migrators must agree on it.
ADVISORY_LOCK = 0x7468_6F72_6171


def alembic_config(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Run the missing migrations, each in its transaction.

    Under an advisory lock, so that replicas that start together migrate once, and with a lock timeout, so that a
    migration that waits for a busy table gives up instead of making every other query wait behind it.
    """
    with engine.connect() as connection:
        connection.execute(sa.text("SET lock_timeout = '5min'; SET statement_timeout = '5min'"))
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        try:
            connection.execute(sa.text("SET lock_timeout = '5s'"))
            connection.execute(sa.text("SET statement_timeout = '10min'"))
            connection.commit()
            command.upgrade(alembic_config(connection), revision)
            # At every run and in no revision: they belong to the server's logins, and no dump of the database has them.
            set_login_defaults(connection)
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
            connection.execute(sa.text("RESET lock_timeout; RESET statement_timeout"))
            connection.commit()
