"""The embedded engines: they keep what was written, whatever ends them, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
import redis
import sqlalchemy as sa
from minio import Minio
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.db.engine import Database
from shared.db.tables import Tenant
from standalone.process import ROOT, Service, ServiceFailed, alive, wait_gone
from standalone.services import Postgres, Redis
from tests.support.waiting import EVENT_SECONDS

if TYPE_CHECKING:
    from tests.conftest import S3

PASSWORD = "a-password"


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that a test may kill."""
    server = Postgres(tmp_path / "post gres", PASSWORD, log=tmp_path / "postgres.log", options={"fsync": "off"})
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A server that a test may kill."""
    server = Redis(tmp_path / "re dis", PASSWORD, log=tmp_path / "redis.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


def connect(server: Postgres) -> psycopg.Connection:
    return psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True)


def write_row(server: Postgres) -> None:
    with connect(server) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('kept')")


def read_rows(server: Postgres) -> list[tuple[str]]:
    with connect(server) as connection:
        return connection.execute("SELECT word FROM kept").fetchall()


def test_postgres_keeps_rows_over_a_restart(own_postgres: Postgres) -> None:
    write_row(own_postgres)
    before, pid = own_postgres.url, own_postgres.pid
    own_postgres.restart()
    assert read_rows(own_postgres) == [("kept",)]
    assert own_postgres.url == before
    assert own_postgres.pid != pid


def test_postgres_keeps_rows_over_a_kill_with_a_connection_open(own_postgres: Postgres) -> None:
    write_row(own_postgres)
    with connect(own_postgres) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        own_postgres.kill()
        assert not own_postgres.running
        assert not alive(backend)
        own_postgres.start()
        own_postgres.wait_ready()
    assert read_rows(own_postgres) == [("kept",)]


def test_postgres_starts_over_the_pid_file_of_a_crash(own_postgres: Postgres) -> None:
    own_postgres.stop()
    # The process id of a crashed server, given to another program since.
    stale = own_postgres.folder / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{own_postgres.folder}\n0\n1\n\n\n\n")
    own_postgres.start()
    own_postgres.wait_ready()
    assert own_postgres.running


def test_postgres_makes_its_folder_again_after_an_interrupted_first_start(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    server = Postgres(tmp_path / "postgres", PASSWORD, log=tmp_path / "log", options={"fsync": "off"})
    server.start()
    server.wait_ready()
    server.stop()
    assert not half.exists()


def test_postgres_refuses_a_wrong_password(own_postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(own_postgres.url.replace("+psycopg", "").replace(PASSWORD, "another"))


def test_postgres_does_not_run_as_root(own_postgres: Postgres) -> None:
    assert psutil.Process(own_postgres.pid).uids().effective != 0


def test_redis_starts_again_with_nothing_and_over_a_damaged_file(own_redis: Redis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.rpush("list", "rung")
        own_redis.kill()
        for folder in (own_redis.folder, own_redis.folder / "appendonlydir"):
            folder.mkdir(exist_ok=True)
            for name in ("appendonly.aof", "appendonly.aof.manifest", "dump.rdb"):
                (folder / name).write_bytes(b"damaged")
        own_redis.start()
        own_redis.wait_ready()
        assert client.lrange("list", 0, -1) == []


def test_redis_is_set_up_as_a_broker(own_redis: Redis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly", "save") == {"appendonly": "no", "save": ""}


def test_redis_refuses_a_client_without_password(own_redis: Redis) -> None:
    with (
        redis.Redis(port=own_redis.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.parametrize("kind", [Postgres, Redis])
def test_a_port_in_use_is_reported_with_the_log(kind: type[Postgres | Redis], tmp_path: Path, own_redis: Redis) -> None:
    server = kind(tmp_path / "second", "another", log=tmp_path / "second.log", port=own_redis.port)
    server.start()
    with pytest.raises(ServiceFailed, match=r"(?s)ended with exit code 1.*[Aa]ddress already in use"):
        server.wait_ready()


class Deaf(Service):
    """Ignores TERM, and has started a child that does so too."""

    def command(self) -> list[str]:
        return ["sh", "-c", "trap '' TERM; sleep 1000 & echo started; wait; sleep 1000"]

    def ready(self) -> bool:
        return b"started" in self.log.read_bytes()


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Deaf]:
    service = Deaf("deaf", tmp_path / "deaf.log")
    service.start()
    service.wait_ready()
    yield service
    service.kill()


def test_stop_kills_what_does_not_listen(deaf: Deaf) -> None:
    family = [psutil.Process(deaf.pid), *psutil.Process(deaf.pid).children(recursive=True)]
    deaf.stop(timeout=0.1)
    assert len(family) == 2
    assert not wait_gone(family, timeout=0)


def test_a_dead_process_leaves_no_child(deaf: Deaf) -> None:
    (child,) = psutil.Process(deaf.pid).children(recursive=True)
    os.kill(deaf.pid, signal.SIGKILL)
    assert deaf.wait_stopped(timeout=EVENT_SECONDS)
    assert not wait_gone([child], timeout=EVENT_SECONDS)


def test_what_is_not_ready_in_time_is_an_error(deaf: Deaf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaf, "ready", lambda: False)
    with pytest.raises(ServiceFailed, match=r"(?s)deaf was not ready after 0 s; .*deaf.log ends with:\nstarted"):
        deaf.wait_ready(timeout=0.1)


PARENT = """
import os, sys
import psutil
from pathlib import Path
from standalone.services import Postgres, Redis
folder = Path(sys.argv[1])
servers = [
    Postgres(folder / "postgres", "p", log=folder / "p.log", options={"fsync": "off"}),
    Redis(folder / "redis", "r", log=folder / "r.log"),
]
for server in servers:
    server.start()
for server in servers:
    server.wait_ready()
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
os.kill(os.getpid(), 9)
"""


def test_services_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=EVENT_SECONDS)
    assert done.returncode == -signal.SIGKILL
    children = [psutil.Process(pid) for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)]
    assert not wait_gone(children, timeout=EVENT_SECONDS)


def test_the_session_database_is_migrated_and_emptied(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Tenant)) == 0


def test_the_s3_server_takes_requests(s3: S3) -> None:
    client = Minio(endpoint=s3.endpoint, access_key=s3.access_key, secret_key=s3.secret_key, secure=False)
    assert client.bucket_exists(bucket_name=s3.bucket)
