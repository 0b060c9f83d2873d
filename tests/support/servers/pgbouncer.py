"""PgBouncer before the tests' PostgreSQL, as hospitals set it up: transactions of many clients on few connections."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import sqlalchemy as sa

from standalone.process import Service, ServiceFailed
from standalone.services import HOST, free_port


class PgBouncer(Service):
    """PgBouncer with one server connection a login, so that clients of one login always share it.

    `ignored`: startup parameters that it drops without a word, instead of refusing the connection.
    """

    def __init__(self, folder: Path, server: str, *, mode: str = "transaction", ignored: str = "") -> None:
        super().__init__("pgbouncer", folder / "pgbouncer.log")
        self._folder, self._server, self._mode, self._ignored = folder, sa.make_url(server), mode, ignored
        self.port = free_port()

    @property
    def url(self) -> str:
        """The same database and login, through the pooler."""
        return self._server.set(host=HOST, port=self.port).render_as_string(hide_password=False)

    def command(self) -> list[str]:
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            raise ServiceFailed("pgbouncer is missing: `make tools` installs it (as root)")
        user = ["--user", "nobody"] if os.geteuid() == 0 else []
        return [program, *user, str(self._folder / "pgbouncer.ini")]

    def prepare(self) -> None:
        """Write its configuration."""
        server = self._server
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",  # it logs in with the line above, whoever asks
            "pool_mode": self._mode,
            "default_pool_size": 1,
            "max_client_conn": 100,
            "ignore_startup_parameters": self._ignored,
        }
        where = f"host={server.host} port={server.port} user={server.username} password={server.password}"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        self._folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(["[databases]", f"* = {where}", "[pgbouncer]", *lines, ""])
        (self._folder / "pgbouncer.ini").write_text(text)

    def ready(self) -> bool:
        """Ask once."""
        try:
            with psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=5, prepare_threshold=None):
                return True
        except psycopg.OperationalError:
            return False
