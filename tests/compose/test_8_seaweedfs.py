"""docker/seaweedfs.yml: SeaweedFS holds the objects, and has them still after its container was made anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compose.deployment import Deployment
from tests.compose.engine import Engine
from tests.compose.images import ROOT

pytestmark = pytest.mark.compose


@pytest.fixture
def deployment(
    engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A deployment as the file's first lines say."""
    made = Deployment(engine, images, tmp_path_factory.mktemp("seaweedfs"), files=["docker/seaweedfs.yml"])
    made.shell("make secrets")
    try:
        made.compose("up", "-d")
        made.wait_ready(180)
        made.key = made.admin("keys", "create", "--tenant", "General Hospital", "--name", "first").strip()
        yield made
    finally:
        made.remove()


def test_objects_outlive_the_container(deployment: Deployment) -> None:
    with deployment.client() as client:
        picture = ROOT / "samples" / "xray-pneumonia.jpg"
        job = client.wait(client.submit([picture], classifier="binary", modality="xray"), 120)
        assert job.status == "succeeded"
        (artifact, *_) = client.artifacts(job.id)
        heatmap = client.heatmap(job.id, artifact.id)
    (command,) = deployment.engine.docker("exec", deployment.container("minio"), "cat", "/proc/1/comm").split()
    assert command == "weed"
    deployment.compose("down")
    deployment.compose("up", "-d")
    deployment.wait_ready(180)
    with deployment.client() as client:
        assert client.heatmap(job.id, artifact.id) == heatmap
    deployment.doctor()
