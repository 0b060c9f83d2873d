"""The API's own way into the database: a login that can be nothing but a member of the API's role."""

from __future__ import annotations

import sqlalchemy as sa
from psycopg import sql

from migrations.login_defaults import set_login_defaults
from shared.config import Settings
from shared.db.engine import API_ROLE, Database
from shared.errors import ConfigError

RIGHTS = "LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE"


def make_login(database: Database, settings: Settings) -> None:
    """Make the login of THORAQ_API_DATABASE_URL, or give it the password that stands there; without it nothing.

    ConfigError when the address lacks a name or a password, or names the owner: no policy holds for the owner.
    """
    given = settings.api_database_url.get_secret_value()
    if not given:
        return
    url = sa.make_url(given)
    if not url.username or not url.password:
        raise ConfigError("THORAQ_API_DATABASE_URL needs a user name and a password")
    with database.transaction() as session:
        if session.scalar(sa.select(sa.literal_column("current_user"))) == url.username:
            raise ConfigError("THORAQ_API_DATABASE_URL names the owner: row-level security does not hold for it")
        # Its hash: the server may log what it is asked.
        server = session.connection().connection.driver_connection.pgconn  # type: ignore[union-attr]
        password = server.encrypt_password(url.password.encode(), url.username.encode()).decode()
        known = session.scalar(sa.text("SELECT true FROM pg_roles WHERE rolname = :name"), {"name": url.username})
        login = sql.SQL("{act} ROLE {name} {rights} PASSWORD {password}").format(
            act=sql.SQL("ALTER" if known else "CREATE"),
            name=sql.Identifier(url.username),
            rights=sql.SQL(RIGHTS),
            password=sql.Literal(password),
        )
        member = sql.SQL("GRANT {} TO {}").format(sql.Identifier(API_ROLE), sql.Identifier(url.username))
        for statement in (login, member):
            session.connection().exec_driver_sql(statement.as_string())
        set_login_defaults(session.connection(), url.username)
