"""The way to PostgreSQL: one engine a process, one transaction a unit of work, errors translated."""

from __future__ import annotations

import copy
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy import exc
from sqlalchemy.orm import Session, sessionmaker

from shared.config import Settings
from shared.errors import Unavailable, UnguardedDatabase

TCP_USER_TIMEOUT_MS = 20_000
#: Who the API is in the database (migration 0007). Row-level security holds for it: it sees one tenant's rows.
API_ROLE = "thoraq_api"
#: The setting that the policies compare with: whose rows a transaction sees.
TENANT_SETTING = "thoraq.tenant"
#: What `thoraq-admin migrate` sets for each login (ALTER ROLE ... IN DATABASE). Not sent with the connection: a pooler
#: drops such options without a word, and what a session sets for itself stays on a server connection that others use.
LOGIN_DEFAULTS = {
    # A lock that is held for 10 s is a fault elsewhere; fail and say so rather than pile up.
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    # A process that is frozen between a statement and its commit would keep its rows locked for ever, and claims and
    # the sweeper skip locked rows.
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    # As for memory and SSDs. With the default, made for disks that turn, a batch's few dozen rows are found by reading
    # a whole table of ten thousand.
    "random_page_cost": "1.1",
}
TIMEOUTS = sa.text(
    "SELECT name FROM pg_settings WHERE setting = '0' AND name IN "
    "('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout') ORDER BY name"
)
SCHEMA_IS_THERE = "SELECT to_regclass('public.alembic_version') IS NOT NULL"
SCHEMA_IS_MISSING = "the schema is missing: run thoraq-admin migrate"
UNPROTECTED_TABLES = sa.text("""
    SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'tenant_id'
        AND NOT a.attisdropped AND NOT row_security_active(c.oid) ORDER BY c.relname""")


class Database:
    """A connection pool. Safe to share between threads, not across a fork."""

    def __init__(self, settings: Settings, pool_size: int = 8, **options: Any) -> None:
        self.engine = sa.create_engine(
            settings.database_url.get_secret_value(),
            **options,
            hide_parameters=True,  # values may name a patient, and exceptions end up in logs
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            connect_args={
                "connect_timeout": 5,
                # Keepalives find out about an idle connection whose other end is gone; one that has sent something and
                # hears nothing of it would otherwise be tried again for a quarter of an hour.
                "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        # A restarted database costs one look at a socket, not one failed request per pooled connection.
        sa.event.listen(self.engine, "checkout", _refuse_ended)
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back by any exception.

        Raises Unavailable when the database cannot be reached or gives up; constraint violations pass through.
        """
        with _errors(), self._sessions.begin() as session:
            yield session

    @contextmanager
    def single(self) -> Iterator[sa.Connection]:
        """For single statements, each a transaction of its own: no BEGIN and COMMIT, a third of the round trips.

        Raises Unavailable as `transaction` does.
        """
        with _errors(), self._single.connect() as connection:
            yield connection

    def check_timeouts(self) -> None:
        """Raise UnguardedDatabase if this login has no timeouts: a frozen process would hold its locks for ever."""
        self.engine.dispose()  # defaults of a login hold for new connections
        with self.transaction() as session:
            missing = session.scalars(TIMEOUTS).all()
        if missing:
            raise UnguardedDatabase(_no_timeouts(missing))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


class TenantDatabase(Database):
    """The database in the API's role: what `of` names a tenant for sees that tenant's rows, the rest sees nobody's.

    The one place where the API's queries are held to a tenant, whatever they ask for themselves: PostgreSQL leaves
    every other row out (row-level security), and refuses to write one. Role and tenant are set by each transaction for
    itself (SET LOCAL), so that they hold behind a pooler that hands connections on between transactions, too.
    """

    def __init__(self, settings: Settings) -> None:
        # The driver begins nothing by itself: `_begin` does, in one message with whose transaction it is. (As an option
        # of the engine's views it would be set and reset each time a connection leaves the pool.)
        super().__init__(settings, isolation_level="AUTOCOMMIT")
        sa.event.listen(self.engine, "connect", _check_guards)
        sa.event.listen(self.engine, "begin", _begin)
        self._views: dict[str, Self] = {}
        self._bind("")

    def of(self, tenant_id: str) -> Self:
        """Return the same pool for one tenant's rows."""
        view = self._views.get(tenant_id)
        if view is None:
            view = copy.copy(self)
            view._bind(tenant_id)
            self._views[tenant_id] = view
        return view

    def _bind(self, tenant_id: str) -> None:
        begin = b"BEGIN; SET LOCAL ROLE %s; SET LOCAL %s = %s" % (
            API_ROLE.encode(),
            TENANT_SETTING.encode(),
            sql.Literal(tenant_id).as_bytes(),
        )
        self._bound = self.engine.execution_options(begin=begin)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with _errors(), self._sessions(bind=self._bound) as session, session.begin():
            yield session

    @contextmanager
    def single(self) -> Iterator[sa.Connection]:
        """Begin a transaction without the session's bookkeeping; BEGIN and COMMIT stay, since SET LOCAL needs them."""
        with _errors(), self._bound.begin() as connection:
            yield connection

    def check_guards(self) -> None:
        """Raise UnguardedDatabase unless tenants are kept apart and timeouts are set, asked on a new connection."""
        with _errors():
            self.engine.dispose()
            self.engine.connect().close()


def _check_guards(connection: psycopg.Connection, _record: object) -> None:
    """Look at each new connection of the API, as its transactions will be: a pooler or a login may be another since."""
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL ROLE {API_ROLE}")
            unprotected = [row[0] for row in connection.execute(UNPROTECTED_TABLES.text)]
            missing = [row[0] for row in connection.execute(TIMEOUTS.text)]
            migrated = connection.execute(SCHEMA_IS_THERE).fetchone() == (True,)
    except psycopg.errors.InvalidParameterValue as error:
        raise Unavailable(SCHEMA_IS_MISSING) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise UnguardedDatabase(f"this login cannot become {API_ROLE}: run thoraq-admin migrate") from error
    if not migrated:
        raise Unavailable(SCHEMA_IS_MISSING)
    if unprotected:
        raise UnguardedDatabase(
            f"row-level security is not active for {API_ROLE} on {', '.join(unprotected)}: run thoraq-admin migrate"
        )
    if missing:
        raise UnguardedDatabase(_no_timeouts(missing))


def _no_timeouts(missing: Sequence[str]) -> str:
    return f"this login has no {', '.join(missing)}: run thoraq-admin migrate"


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction as the API's role, for one tenant.

    A command without parameters or rows, a third of what a cursor's `execute` takes, at every request.
    """
    server = connection.connection.driver_connection.pgconn  # type: ignore[union-attr]
    result = server.exec_(connection.get_execution_options()["begin"])
    if result.status != ExecStatus.COMMAND_OK:
        error = error_from_result(result)
        connection.invalidate(error)
        raise Unavailable("the database does not answer") from error


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except exc.TimeoutError as error:
        raise Unavailable("the database does not answer") from error
    except exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.InvalidSqlStatementName | psycopg.errors.DuplicatePreparedStatement):
            raise Unavailable(
                "a pooler before the database loses prepared statements: see docs/operate/poolers.md"
            ) from error
        if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError):
            raise Unavailable("the database does not answer") from error
        raise


def _refuse_ended(connection: Any, _record: object, _proxy: object) -> None:
    """Refuse a pooled connection with something to read, which nothing was asked: the server says that it ends it."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise exc.DisconnectionError
