"""A worker as a process of its own: what it serves, what it loads, and when it refuses to start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import ModelBundle, Result
from standalone.services import HOST, free_port
from tests.support.rows import add_job, add_tenant
from tests.support.waiting import EVENT_SECONDS, until

ROOT = Path(__file__).parents[2]


def command(queues: str, pool: str) -> list[str]:
    """A worker's command, as compose gives it."""
    worker = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--queues", queues, "--pool", pool]
    return [*worker, "--concurrency", "2", "--hostname", f"test-{queues}@%h", "--without-gossip", "--without-mingle"]


@pytest.fixture
def environment(settings_env: dict[str, str], plain_environ: dict[str, str]) -> dict[str, str]:
    """A worker's environment."""
    return plain_environ | settings_env


@pytest.fixture
def deliverer(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A worker for deliveries and sweeps that has started, and where its metrics are."""
    port = free_port()
    path = tmp_path / "log"
    with path.open("wb") as log:
        started = command("deliver,sweep", "threads")
        worker = subprocess.Popen(
            started, cwd=ROOT, env=environment | {"THORAQ_METRICS_PORT": str(port)}, stdout=log, stderr=log
        )
        deadline = time.monotonic() + EVENT_SECONDS
        while b" ready." not in path.read_bytes():
            assert worker.poll() is None, path.read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield worker, f"http://127.0.0.1:{port}/metrics"
        worker.kill()
        worker.wait()


@pytest.mark.usefixtures("clean_redis", "clean_database")
def test_a_deliverer_serves_metrics_loads_no_model_and_stops_when_asked(
    deliverer: tuple[subprocess.Popen[bytes], str],
) -> None:
    worker, url = deliverer
    assert "# TYPE thoraq_webhook_attempts_total counter" in httpx.get(url).text
    loaded = Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
    assert "psycopg" in loaded
    assert "tensorflow" not in loaded
    worker.terminate()
    assert worker.wait(timeout=EVENT_SECONDS) == 0


@pytest.mark.usefixtures("clean_redis")
def test_a_worker_that_only_measures_answers_without_engine_bundle_or_store(
    environment: dict[str, str], clean_database: Database, tmp_path: Path
) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant).id for _ in range(20)]
    drill = {"THORAQ_ENGINE": "null", "THORAQ_MODEL_DIR": "/nonexistent", "THORAQ_STORAGE_DIR": "/nonexistent"}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            command("classify", "solo"), cwd=ROOT, env=environment | drill, stdout=log, stderr=log
        )
        try:
            answered = wait_for_results(clean_database, len(ids), worker)
            loaded = Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
        finally:
            worker.kill()
            worker.wait()
    assert answered == dict.fromkeys(ids, "stand-in")
    assert "tensorflow" not in loaded
    assert "openvino" not in loaded


def wait_for_results(database: Database, count: int, worker: subprocess.Popen[bytes]) -> dict[str, str]:
    """The names of the bundles that answered, by job, once there are so many."""
    named = sa.select(Result.job_id, ModelBundle.name).join(ModelBundle, ModelBundle.sha256 == Result.bundle_sha256)
    deadline = time.monotonic() + EVENT_SECONDS
    while time.monotonic() < deadline:
        assert worker.poll() is None
        with database.transaction() as session:
            found = {row.job_id: row.name for row in session.execute(named)}
        if len(found) >= count:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{len(found)} of {count} answered")


@pytest.mark.usefixtures("clean_redis", "clean_database")
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [("THORAQ_MODEL_DIR", "/nonexistent", "card.json"), ("THORAQ_BATCHSIZE", "8", "THORAQ_BATCHSIZE is not a setting")],
)
def test_a_worker_that_cannot_work_ends_with_its_reason(
    environment: dict[str, str], variable: str, value: str, reason: str
) -> None:
    done = subprocess.run(
        command("classify", "solo"),
        cwd=ROOT,
        env=environment | {variable: value},
        capture_output=True,
        text=True,
        timeout=EVENT_SECONDS,
        check=False,
    )
    assert done.returncode != 0
    assert reason in done.stderr


def test_a_worker_that_waits_for_the_database_still_stops_when_asked(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Celery listens to SIGTERM only once all is set up, and a container's first process has no default for it."""
    away = {"THORAQ_DATABASE_URL": f"postgresql+psycopg://nobody:none@{HOST}:{free_port()}/none"}
    log = tmp_path / "log"
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            command("deliver", "threads"), cwd=ROOT, env=environment | away, stdout=stream, stderr=stream
        )
        try:
            until(lambda: "worker.waiting" in log.read_text(encoding="utf-8"))
            worker.terminate()
            assert worker.wait(timeout=EVENT_SECONDS) == 0, log.read_text(encoding="utf-8")
        finally:
            worker.kill()
