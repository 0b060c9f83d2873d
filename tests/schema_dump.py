"""shared/db/schema.sql: what all migrations add up to; `python -m tests.schema_dump` rewrites it.

A reader sees tables, policies, triggers and functions on one page, and a reviewer what a migration changes in them.
tests/test_migrations.py holds the file to what pg_dump says of a database that was upgraded to the newest revision.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from migrations.upgrade import upgrade
from standalone.services import Postgres, postgres_program

FILE = Path(__file__).parents[1] / "shared" / "db" / "schema.sql"
HEADING = "-- All migrations together: written by `python -m tests.schema_dump`, held by tests/test_migrations.py.\n"
# pg_dump writes one above each object; the statement below it says the same.
TITLE = re.compile(r"^--\n-- Name: .*\n--\n", re.MULTILINE)
# Above the first object: the versions of the programs, what a restore sets for itself, and psql's random token.
END = "--\n-- PostgreSQL database dump complete\n"
STORAGE = re.compile(r"^SET default_(?:tablespace|table_access_method) = .*\n", re.MULTILINE)


def dumped(server: Postgres, database: str) -> str:
    """The schema of a database, without owners, versions and what a restore sets for itself."""
    url = sa.make_url(server.url_of(database))
    command = [str(postgres_program("pg_dump")), "--schema-only", "--no-owner", "--no-password"]
    done = subprocess.run(
        [*command, f"--host={url.host}", f"--port={url.port}", f"--username={url.username}", database],
        env=os.environ | {"PGPASSWORD": str(url.password)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return normalised(done.stdout)


def normalised(dump: str) -> str:
    """What belongs to the schema: two servers of one revision give the same text."""
    _head, *objects = TITLE.split(dump.partition(END)[0])
    text = STORAGE.sub("", "".join(objects))
    return HEADING + "\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write() -> None:
    """Rewrite the file, from a server of its own."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        server = Postgres(place / "postgres", secrets.token_hex(16), log=place / "log", options={"fsync": "off"})
        server.start()
        try:
            server.wait_ready()
            engine = sa.create_engine(server.ensure_database("thoraq_migrated"))
            upgrade(engine)
            engine.dispose()
            FILE.write_text(dumped(server, "thoraq_migrated"), encoding="utf-8")
        finally:
            server.stop()


if __name__ == "__main__":
    write()
