"""A disk that can be full: a tmpfs of some megabytes. Only root may mount one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self


def fill(ballast: Path) -> None:
    """Write to a file until its disk has not a byte left."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue  # full, to less than this


class SmallDisk:
    """A folder that holds so many megabytes, or, where nothing can be mounted, an ordinary one: see `mounted`."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, self._size = folder, f"size={megabytes}m"
        self.mounted = False
        self._ballast = folder / "ballast"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", self._size, "tmpfs", str(self.folder)]
        self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.mounted:
            # Lazily: a process that has just been killed may still hold a file.
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave not a byte."""
        fill(self._ballast)

    def free(self) -> None:
        """Leave as much as before."""
        self._ballast.unlink(missing_ok=True)
