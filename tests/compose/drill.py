"""A deployment that is broken in every way: a stand-in for the model, a small disk under each volume, a receiver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.compose.deployment import START_SECONDS, Deployment, on_this_machine
from tests.compose.disks import disk
from tests.compose.engine import Engine
from tests.compose.receiver import Receiver

#: Megabytes of each volume: room to start, and little more.
DISKS = {"postgres": 400, "seaweedfs": 1200}
#: Images a second of the stand-in, which is up again soon: a batch lasts for as long as something is broken, and where
#: that takes longer, so does the batch.
RATE = 4.0


class Drill(NamedTuple):
    """The deployment, the mounted disks by the names of its volumes, and who hears of its jobs."""

    deployment: Deployment
    disks: dict[str, Path]
    receiver: Receiver


@contextmanager
def running_drill(
    engine: Engine, images: Mapping[str, str], folder: Path, settings: Mapping[str, str]
) -> Iterator[Drill]:
    """One in this folder, with these settings, too."""
    deployment = Deployment(engine, images, folder)
    deployment.shell("make secrets")
    rate = f"{RATE / on_this_machine(1):.2f}"
    deployment.settings(COMPOSE_PROFILES="cpu", THORAQ_ENGINE="stand-in", THORAQ_STAND_IN_RATE=rate, **settings)
    with ExitStack() as stack:
        stack.callback(deployment.remove)
        # Not all: docker-compose would wait for `migrate` to end.
        deployment.compose("up", "--no-start", "postgres", "minio")
        disks = {}
        for name, size in DISKS.items():
            volume = engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", f"{deployment.project}_{name}")
            disks[name] = stack.enter_context(disk(Path(volume.strip()), folder / f"{name}.img", size))
        stack.callback(deployment.compose, "down", "--timeout", "5")
        deployment.compose("up", "-d")
        deployment.wait_ready(START_SECONDS)
        create = ("keys", "create", "--tenant", "General Hospital", "--name", "first")
        deployment.key = deployment.admin(*create).strip()
        yield Drill(deployment, disks, stack.enter_context(Receiver(deployment, images["thoraq-api"])))
