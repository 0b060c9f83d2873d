"""A bulk batch at a door with little room: the client comes back as it is told, and every file is in once."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from client import BatchOptions, Client, Retry, archive_of
from shared.config import parse
from shared.db.engine import Database
from shared.db.tables import Job, JobState
from shared.storage import open_storage
from tests.support.api import PNG, new_key, work
from tests.support.servers.api import Server
from tests.support.waiting import EVENT_SECONDS

FILES, ROOM = 300, 50


@pytest.fixture
def narrow(settings_env: dict[str, str], plain_environ: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """A server with room for so many jobs of a tenant."""
    open_storage(parse(settings_env)).prepare()
    room = {"THORAQ_MAX_QUEUED_PER_TENANT": str(ROOM)}
    server = Server(plain_environ | settings_env | room, tmp_path / "api.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


def test_a_batch_that_is_more_than_there_is_room_for_gets_in_as_its_jobs_run(
    narrow: Server, clean_database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:03}.png").write_bytes(PNG + struct.pack("<I", number))
    pauses: list[float] = []
    ended = threading.Event()

    def run_jobs() -> None:
        while not ended.wait(0.2):
            work(clean_database)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(min(seconds, 1))  # what the server asks for is more than a test has

    worker = threading.Thread(target=run_jobs)
    worker.start()
    try:
        with Client(narrow.url, new_key(clean_database), retry=Retry(sleep=pause)) as thoraq:
            batch = thoraq.send_batch(archive_of([folder])[0], BatchOptions("binary", "xray"), idempotency_key="night")
            thoraq.wait_batch(batch, timeout=EVENT_SECONDS)
            found = thoraq.batch(batch.id)
    finally:
        ended.set()
        worker.join()
    assert pauses
    assert (found.counts.total, found.counts.succeeded) == (FILES, FILES)
    with clean_database.transaction() as session:
        rows = session.execute(sa.select(Job.item, Job.state).order_by(Job.item)).all()
    assert [tuple(row) for row in rows] == [(item, JobState.SUCCEEDED) for item in range(FILES)]
