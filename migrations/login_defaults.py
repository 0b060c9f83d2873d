"""What holds for every transaction of a login: timeouts, time zone, costs. PostgreSQL applies it, whoever connects."""

from __future__ import annotations

import sqlalchemy as sa
from psycopg import sql

from shared.db.engine import LOGIN_DEFAULTS


def set_login_defaults(connection: sa.Connection, login: str | None = None) -> None:
    """Set LOGIN_DEFAULTS for a login in this database (ALTER ROLE); None: for the one that is connected."""
    name = login or connection.scalar(sa.text("SELECT session_user"))
    database = connection.scalar(sa.text("SELECT current_database()"))
    for setting, value in LOGIN_DEFAULTS.items():
        statement = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
            sql.Identifier(str(name)), sql.Identifier(str(database)), sql.Identifier(setting), sql.Literal(value)
        )
        connection.exec_driver_sql(statement.as_string())
