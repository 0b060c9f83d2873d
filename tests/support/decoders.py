"""The processes in which a sandbox of this process decodes."""

from __future__ import annotations

import psutil


def decoders() -> list[psutil.Process]:
    """Return those that run."""
    return [child for child in psutil.Process().children() if "shared.decoding.child" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    """Nothing for one that has ended meanwhile."""
    try:
        command: list[str] = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
    return command
