"""The way to PostgreSQL: one engine a process, one transaction a unit of work, errors translated."""

from __future__ import annotations

import copy
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy import exc
from sqlalchemy.orm import Session, sessionmaker

from shared.config import Settings
from shared.errors import Unavailable

IDLE_IN_TRANSACTION_MS = 10_000
TCP_USER_TIMEOUT_MS = 20_000
#: Who the API is in the database (migration 0007). Row-level security holds for it: it sees one tenant's rows.
API_ROLE = "thoraq_api"
#: The setting that the policies compare with: whose rows a transaction sees.
TENANT_SETTING = "thoraq.tenant"


class Database:
    """A connection pool. Safe to share between threads, not across a fork."""

    def __init__(self, settings: Settings, pool_size: int = 8, role: str | None = None, **options: Any) -> None:
        self.engine = sa.create_engine(
            settings.database_url.get_secret_value(),
            **options,
            hide_parameters=True,  # values may name a patient, and exceptions end up in logs
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            connect_args={
                "connect_timeout": 5,
                # A lock that is held for 10 s is a fault elsewhere; fail and say so rather than pile up.
                # A process that is frozen between a statement and its commit would keep its rows locked for ever, and
                # claims and the sweeper skip locked rows.
                "options": "-c statement_timeout=30000 -c lock_timeout=10000"
                f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS} -c timezone=utc"
                # As for memory and SSDs. With the default, made for disks that turn, a batch's few dozen rows are
                # found by reading a whole table of ten thousand.
                " -c random_page_cost=1.1" + (f" -c role={role}" if role else ""),
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

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


class TenantDatabase(Database):
    """The database in the API's role: what `of` names a tenant for sees that tenant's rows, the rest sees nobody's.

    The one place where the API's queries are held to a tenant, whatever they ask for themselves: PostgreSQL leaves
    every other row out (row-level security), and refuses to write one.
    """

    def __init__(self, settings: Settings) -> None:
        # The driver begins nothing by itself: `_begin` does, in one message with whose transaction it is. (As an option
        # of the engine's views it would be set and reset each time a connection leaves the pool.)
        super().__init__(settings, role=API_ROLE, isolation_level="AUTOCOMMIT")
        sa.event.listen(self.engine, "begin", _begin)
        self._views: dict[str, Self] = {}
        self._bind("")

    def of(self, tenant_id: str) -> Self:
        """The same pool for one tenant's rows."""
        view = self._views.get(tenant_id)
        if view is None:
            view = copy.copy(self)
            view._bind(tenant_id)
            self._views[tenant_id] = view
        return view

    def _bind(self, tenant_id: str) -> None:
        tenant = sql.Literal(tenant_id).as_bytes()
        setting = TENANT_SETTING.encode()
        self._several = self.engine.execution_options(begin=b"BEGIN; SET LOCAL %s = %s" % (setting, tenant))
        self._single = self.engine.execution_options(tenant=b"SET %s = %s" % (setting, tenant))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with _errors(), self._sessions(bind=self._several) as session, session.begin():
            yield session


def _begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if "begin" in options:
        _say(connection, options["begin"])
    elif connection.info.get(TENANT_SETTING) != options["tenant"]:
        # Outside a transaction a setting stays with its connection: another tenant's read there sets its own first.
        _say(connection, options["tenant"])
        connection.info[TENANT_SETTING] = options["tenant"]


def _say(connection: sa.Connection, command: bytes) -> None:
    """A command without parameters or rows; a third of what a cursor's `execute` takes, at every request."""
    server = connection.connection.driver_connection.pgconn  # type: ignore[union-attr]
    result = server.exec_(command)
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
        if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError):
            raise Unavailable("the database does not answer") from error
        raise


def _refuse_ended(connection: Any, _record: object, _proxy: object) -> None:
    """A pooled connection with something to read was not asked anything: the server has said that it ends it."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise exc.DisconnectionError
