"""Whether the database that was given can serve: its encoding, its version, and what its login may do.

Asked once over a plain connection, before anything else speaks to it: with the encoding SQL_ASCII, PostgreSQL says
texts as bytes, and SQLAlchemy fails over its very first answer. Each fault is one line that says what to do.
"""

from __future__ import annotations

import psycopg
import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import API_ROLE, SCHEMA_IS_THERE
from shared.errors import ConfigError, Unavailable

ENCODING = "UTF8"
#: The oldest major version that the tests run on.
OLDEST = 16
READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"
MAY_CREATE = "SELECT has_schema_privilege('public', 'CREATE')"
MAY_MAKE_ROLES = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
ROLE_EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)"
IS_MEMBER = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = %s"
OWNS_SCHEMA = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('public.alembic_version')"
MAY_WRITE_JOBS = "SELECT has_table_privilege(%s, 'public.jobs', 'INSERT')"


def check_for_migration(settings: Settings) -> None:
    """Return when the schema can be made and kept in this database.

    ConfigError names the first thing that prevents it, Unavailable why the database lets nobody in.
    """
    with _connected(settings) as connection:
        _check_server(connection)
        if not _true(connection, MAY_CREATE):
            raise ConfigError(_lacks(connection, "may not create tables", "GRANT CREATE ON SCHEMA public TO ..."))
        _check_roles(connection, own_login=bool(settings.api_database_url.get_secret_value()))
        if _true(connection, SCHEMA_IS_THERE) and not _true(connection, OWNS_SCHEMA):
            raise ConfigError(_lacks(connection, "does not own Thoraq's tables", "migrate with their owner's login"))


def check_for_api(settings: Settings) -> None:
    """Return when the API can work in this database, migrated or not; errors as of `check_for_migration`."""
    with _connected(settings) as connection:
        _check_server(connection)
        if not _true(connection, ROLE_EXISTS, API_ROLE):
            return  # before the first migration; /readyz says that the schema is missing
        if not _true(connection, IS_MEMBER, API_ROLE):
            raise ConfigError(_lacks(connection, f"is no member of the role {API_ROLE}", "run thoraq-admin migrate"))
        if _true(connection, SCHEMA_IS_THERE) and not _true(connection, MAY_WRITE_JOBS, API_ROLE):
            raise ConfigError(f"the role {API_ROLE} may not write the table jobs: run thoraq-admin migrate")


def _connected(settings: Settings) -> psycopg.Connection:
    address = sa.make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    try:
        return psycopg.connect(
            address.render_as_string(hide_password=False), autocommit=True, connect_timeout=5, prepare_threshold=None
        )
    except psycopg.OperationalError as error:
        # libpq's message names host, database and user, and never the password.
        reason = str(error).strip().splitlines()[-1].strip()
        raise Unavailable(f"the database does not answer, or lets nobody in: {reason}") from error


def _check_server(connection: psycopg.Connection) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != ENCODING:
        raise ConfigError(
            f"the database {connection.info.dbname} is encoded as {encoding}, and Thoraq needs {ENCODING}: make it "
            "with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    major = connection.info.server_version // 10_000
    if major < OLDEST:
        raise ConfigError(f"the database is PostgreSQL {major}, and Thoraq needs {OLDEST} or newer")
    if _true(connection, READ_ONLY):
        raise ConfigError(
            f"the database {connection.info.dbname} is read-only, a standby or set so "
            "(default_transaction_read_only): give the address of the primary"
        )


def _check_roles(connection: psycopg.Connection, *, own_login: bool) -> None:
    """Check the API's role, which the first migration makes, and its login (THORAQ_API_DATABASE_URL), made by each."""
    if _true(connection, MAY_MAKE_ROLES):
        return
    if own_login or not (_true(connection, ROLE_EXISTS, API_ROLE) and _true(connection, IS_MEMBER, API_ROLE)):
        raise ConfigError(_lacks(connection, "may not create roles", "ALTER ROLE ... CREATEROLE"))


def _lacks(connection: psycopg.Connection, right: str, remedy: str) -> str:
    return f"the login {connection.info.user} of the database {connection.info.dbname} {right}: {remedy}"


def _true(connection: psycopg.Connection, question: str, *values: str) -> bool:
    row = connection.execute(question.encode(), values or None).fetchone()
    return row is not None and bool(row[0])
