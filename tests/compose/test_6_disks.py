"""Volumes that are full, on loop devices: what cannot be kept is refused as such, polls go on, and room mends it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.compose.deployment import START_SECONDS, Deployment
from tests.compose.engine import Engine

pytestmark = pytest.mark.compose
#: Megabytes of each volume: room to start, and little more.
DISKS = {"postgres": 400, "seaweedfs": 1200}


@pytest.fixture(scope="module")
def small(
    engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, dict[str, Path]]]:
    """A deployment with a small disk under each volume; a stand-in for the model. Redis has none."""
    deployment = Deployment(engine, images, tmp_path_factory.mktemp("small"))
    deployment.shell("make secrets")
    deployment.settings(THORAQ_ENGINE="stand-in")
    with ExitStack() as stack:
        stack.callback(deployment.remove)
        # Not all: docker-compose would wait for `migrate` to end.
        deployment.compose("up", "--no-start", "postgres", "minio")
        disks = {}
        for name, size in DISKS.items():
            volume = engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", f"{deployment.project}_{name}")
            disks[name] = stack.enter_context(disk(Path(volume.strip()), deployment.folder / f"{name}.img", size))
        deployment.compose("up", "-d")
        deployment.wait_ready(START_SECONDS)
        create = ("keys", "create", "--tenant", "General Hospital", "--name", "first")
        deployment.key = deployment.admin(*create).strip()
        yield deployment, disks
        deployment.compose("down", "--timeout", "5")


@contextmanager
def disk(folder: Path, image: Path, megabytes: int) -> Iterator[Path]:
    """A file system of this size, mounted on the folder; what the folder had is in it."""
    owner = folder.stat()
    with image.open("wb") as file:
        file.truncate(megabytes * 1_000_000)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        (folder / "lost+found").rmdir()
        subprocess.run(["chown", f"{owner.st_uid}:{owner.st_gid}", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """While it lasts, not a block is left."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue  # full, to less than this
    try:
        yield
    finally:
        ballast.unlink()


def submit(deployment: Deployment, picture: Path, key: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{deployment.url}/v1/jobs",
        data={"classifier": "binary", "modality": "xray"},
        files={"files": ("x.png", picture.read_bytes())},
        headers={"Authorization": f"Bearer {deployment.key}", "Idempotency-Key": key, **headers},
        timeout=60,
    )


@pytest.mark.parametrize("volume", ["seaweedfs", "postgres"])
def test_a_full_volume(small: tuple[Deployment, dict[str, Path]], xrays: list[Path], volume: str) -> None:
    deployment, disks = small
    before = submit(deployment, xrays[0], f"{volume}-before", Prefer="wait=60")
    assert before.status_code == 200, before.text
    job = before.json()["id"]
    with full(disks[volume]):
        # The files that there are have some room in them.
        for number, picture in enumerate(xrays[1:]):
            answer = submit(deployment, picture, f"{volume}-{number}")
            if answer.status_code != 202:
                break
        assert answer.status_code == 503, answer.text
        assert "Retry-After" in answer.headers
        header = {"Authorization": f"Bearer {deployment.key}"}
        if volume != "postgres":  # which may be starting again: it ends itself when its log cannot grow
            assert httpx.get(f"{deployment.url}/v1/jobs/{job}", headers=header, timeout=60).status_code == 200
    deadline = time.monotonic() + 120
    while (again := submit(deployment, picture, f"{volume}-{number}", Prefer="wait=60")).status_code != 200:
        assert time.monotonic() < deadline, again.text
        time.sleep(1)
    assert again.json()["status"] == "succeeded"
    deployment.wait_healthy()
    deployment.doctor()
