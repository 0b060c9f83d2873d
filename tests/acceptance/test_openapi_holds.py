"""A real server keeps what /openapi.json promises: schemathesis makes requests from it, good and bad ones, and checks
every answer against it: no 5xx, no status, content type, header or body that is not described."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared import keys
from shared.db.engine import Database
from shared.db.tables import Worker
from shared.doorbell import QUEUES
from tests.support.api import new_key
from tests.support.servers.api import Server

RUN = Path(__file__).parents[1] / "openapi_run"
ROOT = RUN.parents[1]


@pytest.fixture
def server(settings_env: dict[str, str], clean_redis: None, tmp_path: Path) -> Iterator[Server]:  # noqa: ARG001
    """The API on the real database; nothing works at what it takes in."""
    # Waiting for what never ends would take up the whole time.
    environment = os.environ | settings_env | {"THORAQ_MAX_WAIT_SECONDS": "0"}
    environment |= {"THORAQ_STORAGE_DIR": str(tmp_path / "objects")}
    (tmp_path / "objects" / ".incoming").mkdir(parents=True)
    server = Server(environment, tmp_path / "api.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


LONG = [pytest.mark.big, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("examples", "seconds"), [pytest.param(3, 40, id="short"), pytest.param(100, 400, id="long", marks=LONG)]
)
def test_every_answer_is_a_described_one(
    examples: int, seconds: int, server: Server, clean_database: Database, tmp_path: Path
) -> None:
    key = new_key(clean_database)
    with clean_database.transaction() as session:
        own = keys.find(session, key)
        assert own is not None
        # Ready without a worker: what a worker does is not asked here.
        later = sa.func.now() + timedelta(hours=1)
        session.add_all(Worker(name="somewhere", queue=queue, seen_at=later) for queue in QUEUES)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(RUN / "schemathesis.toml"),
        "run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {key}",
        "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful",
        "--max-examples", str(examples), "--max-time", str(seconds), "--seed", "1", "--no-color",
    ]  # fmt: skip
    hooks = {"SCHEMATHESIS_HOOKS": "tests.openapi_run.hooks", "OPENAPI_RUN_KEY_ID": own.id, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | hooks, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines())
