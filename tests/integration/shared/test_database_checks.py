"""What migrate and the API say of a database that cannot serve, in one line; on real servers, the old one too."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from pydantic import SecretStr

from shared.config import Settings, parse
from shared.db.checks import OLDEST, check_for_api, check_for_migration
from shared.errors import ConfigError, Unavailable
from standalone import services
from standalone.services import Postgres, free_port
from tests.support.api import MakeApp, json_of

ROOT = Path(__file__).parents[3]
MakeDatabase = Callable[..., str]


@pytest.fixture
def settings_for(settings_env: dict[str, str]) -> Callable[[str], Settings]:
    return lambda url: parse(settings_env | {"THORAQ_DATABASE_URL": url})


@pytest.fixture
def owner(postgres: Postgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.url_of("postgres").replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


@pytest.fixture
def make_database(owner: psycopg.Connection, postgres: Postgres) -> Iterator[MakeDatabase]:
    """Make a database with these options, removed at the end; returns its address."""
    made = []

    def make(options: str = "") -> str:
        name = f"check_{secrets.token_hex(4)}"
        made.append(name)
        owner.execute(f"CREATE DATABASE {name} {options}".encode())
        return postgres.url_of(name)

    yield make
    for name in made:
        owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def make_login(owner: psycopg.Connection) -> Iterator[Callable[[str, str], str]]:
    """Make a login with these rights; returns the database's address with it."""
    made = []

    def make(url: str, rights: str = "") -> str:
        name = f"login_{secrets.token_hex(4)}"
        made.append(name)
        owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' {rights}".encode())
        return sa.make_url(url).set(username=name, password="p").render_as_string(hide_password=False)

    yield make
    for name in made:
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


CHECKS = [check_for_migration, check_for_api]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_an_encoding_that_is_not_utf8_is_named(
    check: Callable[[Settings], None], encoding: str, make_database: MakeDatabase, settings_for: Callable[..., Settings]
) -> None:
    url = make_database(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConfigError, match=rf"encoded as {encoding}, and Thoraq needs UTF8: make it with CREATE"):
        check(settings_for(url))


@pytest.mark.parametrize("check", CHECKS)
def test_a_server_that_is_too_old_is_named(
    check: Callable[[Settings], None],
    make_database: MakeDatabase,
    settings_for: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.db.checks.OLDEST", 99)
    with pytest.raises(ConfigError, match=r"is PostgreSQL \d+, and Thoraq needs 99 or newer"):
        check(settings_for(make_database()))


def test_the_oldest_server_is_migrated(
    tmp_path: Path, settings_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = services.postgres_program("postgres").parent
    monkeypatch.setattr(services, "postgres_program", lambda name: newest.parents[1] / "pginstall" / "bin" / name)
    server = Postgres(tmp_path / "oldest", secrets.token_hex(8), log=tmp_path / "log", options={"fsync": "off"})
    server.start()
    try:
        server.wait_ready()
        with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
            assert connection.info.server_version // 10_000 == OLDEST
        done = migrate(settings_env | {"THORAQ_DATABASE_URL": server.url})
        assert (done.returncode, done.stdout) == (0, "migrated\n"), done.stderr
    finally:
        server.stop()


@pytest.mark.parametrize("check", CHECKS)
def test_a_database_that_is_read_only_is_named(
    check: Callable[[Settings], None],
    make_database: MakeDatabase,
    settings_for: Callable[..., Settings],
    owner: psycopg.Connection,
) -> None:
    url = make_database()
    owner.execute(f"ALTER DATABASE {sa.make_url(url).database} SET default_transaction_read_only = on".encode())
    with pytest.raises(ConfigError, match="is read-only"):
        check(settings_for(url))


def test_a_login_without_rights_is_named(
    make_database: MakeDatabase, make_login: Callable[..., str], settings_for: Callable[..., Settings]
) -> None:
    url = make_database()
    with pytest.raises(ConfigError, match=r"the login login_\w+ of the database check_\w+ may not create tables"):
        check_for_migration(settings_for(make_login(url)))
    with pytest.raises(ConfigError, match="is no member of the role thoraq_api"):
        check_for_api(settings_for(make_login(url)))


def test_a_login_that_owns_the_database_and_may_make_no_roles_is_named(
    make_database: MakeDatabase,
    make_login: Callable[..., str],
    settings_for: Callable[..., Settings],
    owner: psycopg.Connection,
) -> None:
    url = make_database()
    login = make_login(url)
    name, role = sa.make_url(url).database, sa.make_url(login).username
    owner.execute(f"ALTER DATABASE {name} OWNER TO {role}".encode())
    try:
        with pytest.raises(ConfigError, match="may not create roles"):
            check_for_migration(settings_for(login))
    finally:
        owner.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER".encode())


def test_another_s_tables_are_named(
    database_url: str, make_login: Callable[..., str], settings_for: Callable[..., Settings]
) -> None:
    login = make_login(database_url, "CREATEROLE")
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        role = sql.Identifier(str(sa.make_url(login).username))
        connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(role))
        try:
            with pytest.raises(ConfigError, match="does not own Thoraq's tables"):
                check_for_migration(settings_for(login))
        finally:
            connection.execute(sql.SQL("REVOKE CREATE ON SCHEMA public FROM {}").format(role))


def test_who_is_not_let_in_is_told_why(postgres: Postgres, settings_for: Callable[..., Settings]) -> None:
    wrong = sa.make_url(postgres.url).set(password="wrong").render_as_string(hide_password=False)
    with pytest.raises(Unavailable, match='password authentication failed for user "thoraq"'):
        check_for_migration(settings_for(wrong))
    with pytest.raises(Unavailable, match=r'database "nowhere" does not exist'):
        check_for_migration(settings_for(postgres.url_of("nowhere")))


def test_a_good_database_passes_before_and_after_its_migration(
    make_database: MakeDatabase, settings_for: Callable[..., Settings], database_url: str
) -> None:
    for url in (make_database(), database_url):
        for check in CHECKS:
            check(settings_for(url))


def migrate(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "admin", "migrate"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_migrate_and_the_api_say_it_in_one_line_and_end(
    make_database: MakeDatabase, settings_env: dict[str, str]
) -> None:
    url = make_database("ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    environment = settings_env | {"THORAQ_DATABASE_URL": url}
    refused = migrate(environment)
    assert refused.returncode == 1
    assert refused.stderr.startswith("thoraq-admin: the database check_")
    assert refused.stderr.count("\n") == 1
    api = subprocess.run(
        [sys.executable, "-c", "import api; api.create_app()"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert api.returncode == 1
    assert api.stderr.startswith("thoraq: the database check_")
    assert api.stderr.count("\n") == 1


def test_an_api_that_starts_before_its_database_starts(make_app: MakeApp) -> None:
    nobody = f"postgresql+psycopg://thoraq:x@127.0.0.1:{free_port()}/thoraq"
    client = make_app(database_url=SecretStr(nobody)).test_client()
    assert json_of(client.get("/healthz")) == {"status": "alive"}
    assert json_of(client.get("/readyz"), 503)["checks"]["database"] == "the database does not answer"
