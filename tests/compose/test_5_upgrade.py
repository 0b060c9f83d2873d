"""From the version before to this one, with its data and a batch that runs: nothing is lost, old works beside new."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import documented
from tests.compose import images as made
from tests.compose.deployment import BATCH_SECONDS, START_SECONDS, Deployment, on_this_machine
from tests.compose.engine import Engine

pytestmark = pytest.mark.compose
#: The last commit whose compose file no engine had run.
BEFORE = "ca3c1c9"
#: The page that says how; its first line builds images, which are there already.
UPGRADE = made.ROOT / "docs" / "operate" / "upgrade.md"
#: Images a second of the stand-in for the model: a batch outlasts the upgrade, on a busy machine, too.
RATE = "1"


@pytest.fixture(scope="module")
def old_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "archive", BEFORE], cwd=made.ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


@pytest.fixture
def old(engine: Engine, old_checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The version before, as it was started then, with a stand-in for the model, which the API's image can run, too."""
    images = made.ensure(engine, old_checkout, ["thoraq-api"])
    images["thoraq-worker-cpu"] = images["thoraq-api"]
    deployment = Deployment(engine, images, tmp_path_factory.mktemp("upgraded"), old_checkout)
    deployment.shell("make secrets")
    deployment.settings(COMPOSE_PROFILES="cpu", THORAQ_ENGINE="stand-in", THORAQ_STAND_IN_RATE=RATE)
    try:
        deployment.compose("up", "-d")
        deployment.wait_ready(START_SECONDS)
        create = ("keys", "create", "--tenant", "General Hospital", "--name", "first")
        deployment.key = deployment.admin(*create).strip()
        yield deployment
    finally:
        deployment.remove()


def upgrade_lines() -> list[str]:
    """The documented commands, in order: migrate, the API, deliver and beat, the rest."""
    (block,) = documented.blocks(UPGRADE, "console")
    build, *lines = [line.removeprefix("$ ").partition("  #")[0] for line in block.strip().splitlines()]
    assert build == "docker compose build"
    return lines


def test_an_upgrade_loses_nothing_and_old_workers_go_on_with_the_new_schema(
    old: Deployment, images: dict[str, str], xrays: list[Path]
) -> None:
    migrate, api, *rest = upgrade_lines()
    with old.client() as client:
        before = client.submit_batch(xrays, classifier="binary", modality="xray")
        # As `git pull` does, with the line that keeps MinIO where the objects are in it.
        old.copy(made.ROOT)
        old.files = ["docker/minio.yml"]
        old.use(images)
        for line in (migrate, api):
            old.shell(line)
        old.wait_healthy(services=["api"])
        # Sent to the new API, answered by the old worker.
        beside = client.submit(xrays[:1], classifier="ensemble", modality="xray", priority="stat")
        assert client.wait(beside, on_this_machine(BATCH_SECONDS)).status == "succeeded"
        counts = client.batch(before.id).counts
        assert counts.queued, "the batch was to outlast the upgrade of the API"
        assert counts.failed == 0
        # The new worker takes no time.
        old.settings(THORAQ_STAND_IN_RATE="0")
        for line in rest:
            old.shell(line)
        old.wait_healthy()
        done = client.wait_batch(before, on_this_machine(BATCH_SECONDS))
        assert (done.status, done.counts.unanswered) == ("completed", 0)
        jobs = [result.job.id for result in client.batch_results(before)]
        assert len(jobs) == len(set(jobs)) == done.counts.total
    old.doctor()
