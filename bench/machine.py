"""Where and with what a run was measured: without that, its numbers mean nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "bentoml",
    "celery",
    "flask",
    "granian",
    "litserve",
    "numpy",
    "opencv-python-headless",
    "openvino",
    "redis",
    "tensorflow-cpu",
    "thoraq",
)


def machine(folder: Path) -> dict[str, Any]:
    """Processor, memory, load before the run, and the file system under `folder`, where everybody's data lie."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(terse=True),
        "load_before": round(os.getloadavg()[0], 2),
        # A file system in memory makes every durable write free.
        "filesystem": _filesystem(folder.resolve()),
    }


def versions() -> dict[str, str]:
    """Python and those packages that decide the speed and are here: the peers are not everywhere."""
    installed = {each.metadata["Name"].lower(): each.version for each in distributions()}
    return {"python": platform.python_version(), **{name: installed[name] for name in PACKAGES if name in installed}}


def revision() -> dict[str, Any]:
    """Return the commit, and whether files differ from it; `unknown` outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    return {"commit": commit or "unknown", "modified": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str:
    program = shutil.which("git")
    if program is None:
        return ""
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()  # ARM's cpuinfo has no such line


def _filesystem(folder: Path) -> str:
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return str(next((mounts[above] for above in (folder, *folder.parents) if above in mounts), "unknown"))
