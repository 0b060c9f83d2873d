"""The way to PostgreSQL: one engine a process, one transaction a unit of work, errors translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session, sessionmaker

from shared.config import Settings
from shared.errors import Unavailable

IDLE_IN_TRANSACTION_MS = 10_000


class Database:
    """A connection pool. Safe to share between threads, not across a fork."""

    def __init__(self, settings: Settings, pool_size: int = 8) -> None:
        self.engine = sa.create_engine(
            settings.database_url.get_secret_value(),
            hide_parameters=True,  # values may name a patient, and exceptions end up in logs
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            pool_pre_ping=True,  # a restarted database costs one ping, not one failed request per pooled connection
            connect_args={
                "connect_timeout": 5,
                # A lock that is held for 10 s is a fault elsewhere; fail and say so rather than pile up.
                # A process that is frozen between a statement and its commit would keep its rows locked for ever, and
                # claims and the sweeper skip locked rows.
                "options": "-c statement_timeout=30000 -c lock_timeout=10000"
                f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS} -c timezone=utc",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back by any exception.

        Raises Unavailable when the database cannot be reached or gives up; constraint violations pass through.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except exc.TimeoutError as error:
            raise Unavailable("the database does not answer") from error
        except exc.DBAPIError as error:
            if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError):
                raise Unavailable("the database does not answer") from error
            raise

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
