"""Volumes that are full: what cannot be kept is refused as such, polls go on, and room mends it. Redis has none."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.compose.deployment import Deployment
from tests.compose.disks import full
from tests.compose.drill import Drill

pytestmark = pytest.mark.compose


def submit(deployment: Deployment, picture: Path, key: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{deployment.url}/v1/jobs",
        data={"classifier": "binary", "modality": "xray"},
        files={"files": ("x.png", picture.read_bytes())},
        headers={"Authorization": f"Bearer {deployment.key}", "Idempotency-Key": key, **headers},
        timeout=60,
    )


@pytest.mark.parametrize("volume", ["seaweedfs", "postgres"])
def test_a_full_volume(drill: Drill, xrays: list[Path], volume: str) -> None:
    deployment = drill.deployment
    deployment.wait_healthy()
    before = submit(deployment, xrays[0], f"{volume}-before", Prefer="wait=60")
    assert before.status_code == 200, before.text
    job = before.json()["id"]
    with full(drill.disks[volume]):
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
