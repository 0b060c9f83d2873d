"""From the version before to this one, with its data and a batch that runs: nothing is lost, old works beside new."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose import images as made
from tests.compose.deployment import Deployment
from tests.compose.engine import Engine

pytestmark = pytest.mark.compose
#: The last commit whose compose file no engine had run.
BEFORE = "ca3c1c9"
#: Images a second of the stand-in for the model: a batch runs for as long as the upgrade takes.
RATE = "6"


@pytest.fixture(scope="module")
def old_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "archive", BEFORE], cwd=made.ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


@pytest.fixture
def old(engine: Engine, old_checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The version before, as it was started then."""
    images = made.ensure(engine, old_checkout)
    deployment = Deployment(engine, images, tmp_path_factory.mktemp("upgraded"), old_checkout)
    deployment.shell("make secrets")
    deployment.settings(THORAQ_ENGINE="stand-in", THORAQ_STAND_IN_RATE=RATE)
    try:
        deployment.compose("up", "-d", timeout=300)
        deployment.wait_ready(180)
        create = ("keys", "create", "--tenant", "General Hospital", "--name", "first")
        deployment.key = deployment.admin(*create).strip()
        yield deployment
    finally:
        deployment.remove()


def test_an_upgrade_loses_nothing_and_old_workers_go_on_with_the_new_schema(
    old: Deployment, images: dict[str, str], xrays: list[Path]
) -> None:
    with old.client() as client:
        before = client.submit_batch(xrays, classifier="binary", modality="xray")
        # As `git pull` does, and then the API first: its migration is done while the old worker works.
        old.copy(made.ROOT)
        old.use(images)
        old.compose("up", "-d", "--no-deps", "migrate")
        while old.state("migrate")["Running"]:
            time.sleep(0.5)
        assert old.state("migrate")["ExitCode"] == 0
        old.compose("up", "-d", "--no-deps", "api", "deliver")
        old.wait_healthy(services=["api", "deliver"])
        assert client.batch(before.id).counts.queued, "the batch was to run while both versions do"
        beside = client.submit_batch(xrays[:40], classifier="ensemble", modality="xray")
        while not client.batch(beside.id).counts.succeeded:
            assert client.batch(before.id).counts.failed == 0
            time.sleep(0.2)
        old.compose("up", "-d")
        old.wait_healthy()
        for batch in (before, beside):
            done = client.wait_batch(batch, 200)
            assert (done.status, done.counts.unanswered) == ("completed", 0)
            jobs = [result.job.id for result in client.batch_results(batch)]
            assert len(jobs) == len(set(jobs)) == done.counts.total
    old.doctor()
