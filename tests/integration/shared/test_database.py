"""The connection pool on a real PostgreSQL."""

from __future__ import annotations

import os
import socket

import pytest
import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import TCP_USER_TIMEOUT_MS, Database, TenantDatabase, _refuse_ended
from shared.db.tables import Tenant
from shared.errors import Unavailable

NUMBER = sa.select(sa.literal(7))


def test_connections_that_the_server_ended_are_replaced_unnoticed(settings: Settings, clean_database: Database) -> None:
    database = Database(settings)
    with database.transaction() as session, database.single() as connection:
        ended = [part.execute(sa.select(sa.func.pg_backend_pid())).scalar_one() for part in (session, connection)]
    with clean_database.transaction() as session:
        for process in ended:
            session.execute(sa.select(sa.func.pg_terminate_backend(process, 10_000)))
    with database.transaction() as session, database.single() as connection:
        assert [part.execute(NUMBER).scalar_one() for part in (session, connection)] == [7, 7]
    database.close()


def test_a_connection_that_breaks_as_it_is_taken_is_told_and_given_up(
    settings: Settings, clean_database: Database
) -> None:
    database = TenantDatabase(settings)
    sa.event.remove(database.engine, "checkout", _refuse_ended)  # it breaks just after that
    for way in (database.of("ten_1").transaction, database.of("ten_1").single):
        with way() as part:
            ended = part.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        with clean_database.transaction() as session:
            session.execute(sa.select(sa.func.pg_terminate_backend(ended, 10_000)))
        with pytest.raises(Unavailable), database.of("ten_2").transaction() as session:
            session.execute(NUMBER)
        with way() as part:
            assert part.execute(NUMBER).scalar_one() == 7
    database.close()


def test_what_was_read_without_a_transaction_leaves_the_connection_as_it_was(
    settings: Settings, clean_database: Database
) -> None:
    database = Database(settings, pool_size=1)
    with database.single() as connection:
        assert connection.execute(NUMBER).scalar_one() == 7
    with database.transaction() as session:
        session.add(Tenant(id="ten_1", name="north"))
        session.flush()
        session.rollback()
    database.close()
    with clean_database.transaction() as session:
        assert session.get(Tenant, "ten_1") is None


def test_what_a_vanished_server_does_not_confirm_is_given_up_in_time(clean_database: Database) -> None:
    connection = clean_database.engine.raw_connection()
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_USER_TIMEOUT_MS
    connection.close()
