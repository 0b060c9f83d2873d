"""Real services for the tests, started when the first test asks for one, once a session, on free loopback ports."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from minio import Minio

from migrations.upgrade import upgrade
from shared.config import Settings, parse
from shared.db.engine import Database
from shared.db.tables import Base
from standalone.services import Postgres, Redis
from tests.support.servers.s3 import MotoS3, SeaweedFs

#: Where files take longest. With two processes, the last of them would keep one waiting for the other.
LONGEST = ("tests/acceptance/", "tests/unit/training/", "tests/integration/shared/inference/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; otherwise in the order of their names."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@dataclass(frozen=True)
class S3:
    """How to reach the S3 server; the bucket exists."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


@pytest.fixture(scope="session")
def services_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the services keep their data and their logs."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def postgres(services_folder: Path) -> Iterator[Postgres]:
    """A PostgreSQL server. Without fsync: tests kill processes, not the machine."""
    log = services_folder / "postgres.log"
    server = Postgres(services_folder / "postgres", secrets.token_hex(16), log=log, options={"fsync": "off"})
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database_url(postgres: Postgres) -> str:
    """A database of this session, migrated to the newest revision."""
    url = postgres.ensure_database("thoraq_test")
    engine = sa.create_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def redis_service(services_folder: Path) -> Iterator[Redis]:
    """A Redis server with the append-only file on."""
    server = Redis(services_folder / "redis", secrets.token_hex(16), log=services_folder / "redis.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_url(redis_service: Redis) -> str:
    """The address of Redis, with its password."""
    return redis_service.url


@pytest.fixture
def clean_redis(redis_service: Redis) -> None:
    """An empty Redis; started again when an earlier test killed it."""
    redis_service.start()
    redis_service.wait_ready()
    with redis.Redis.from_url(redis_service.url) as client:
        client.flushall()


@pytest.fixture(scope="session")
def moto(services_folder: Path) -> Iterator[MotoS3]:
    """An S3 server; `s3` says how to reach it."""
    server = MotoS3(services_folder / "moto.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(moto: MotoS3) -> S3:
    """An S3 server with an empty bucket."""
    client = Minio(endpoint=moto.endpoint, access_key=moto.access_key, secret_key=moto.secret_key, secure=False)
    client.make_bucket(bucket_name=moto.bucket)
    return S3(moto.endpoint, moto.access_key, moto.secret_key, moto.bucket)


@pytest.fixture(scope="session")
def seaweedfs(services_folder: Path) -> Iterator[S3]:
    """The other S3 server that compose deployments may run, with an empty bucket."""
    server = SeaweedFs(services_folder / "seaweedfs", services_folder / "seaweedfs.log")
    server.start()
    server.wait_ready()
    client = Minio(endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False)
    client.make_bucket(bucket_name=server.bucket)
    yield S3(server.endpoint, server.access_key, server.secret_key, server.bucket)
    server.stop()


@pytest.fixture(scope="session")
def settings_env(database_url: str, redis_url: str, services_folder: Path) -> dict[str, str]:
    """THORAQ_* for processes and for settings in this process; objects are kept in a folder."""
    return {
        "THORAQ_DATABASE_URL": database_url,
        "THORAQ_REDIS_URL": redis_url,
        "THORAQ_SECRET_KEY": secrets.token_hex(32),
        "THORAQ_STORAGE": "folder",
        "THORAQ_STORAGE_DIR": str(services_folder / "objects"),
        "THORAQ_SESSION_SECURE": "false",
        "THORAQ_WEBHOOK_ALLOW_HTTP": "true",
        "THORAQ_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
    }


@pytest.fixture(scope="session")
def minio_env(settings_env: dict[str, str], s3: S3) -> dict[str, str]:
    """The same, with objects kept in the S3 server."""
    return settings_env | {
        "THORAQ_STORAGE": "minio",
        "THORAQ_MINIO_ENDPOINT": s3.endpoint,
        "THORAQ_MINIO_ACCESS_KEY": s3.access_key,
        "THORAQ_MINIO_SECRET_KEY": s3.secret_key,
        "THORAQ_MINIO_BUCKET": s3.bucket,
        "THORAQ_MINIO_SECURE": "false",
    }


@pytest.fixture(scope="session")
def settings(settings_env: dict[str, str]) -> Settings:
    """The settings that `settings_env` makes."""
    return parse(settings_env)


@pytest.fixture(scope="session")
def session_database(settings: Settings) -> Iterator[Database]:
    """One connection pool a session; tests ask for `clean_database`."""
    database = Database(settings)
    yield database
    database.close()


@pytest.fixture
def clean_database(session_database: Database) -> Database:
    """The database with every table empty."""
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with session_database.transaction() as session:
        session.execute(sa.text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    return session_database
