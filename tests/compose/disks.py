"""Small disks under volumes, as loop devices, and full ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.small_disk import fill


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
    fill(ballast)
    try:
        yield
    finally:
        ballast.unlink()
