"""How much memory this process may use.

A container is killed when it passes its limit, without a word to the process: what is needed is compared before it is
loaded. Limits are those of control groups, of version 1 (Linux kernel, Documentation/admin-guide/cgroup-v1/memory.rst)
and 2 (Documentation/admin-guide/cgroup-v2.rst), of this group and of those above it as far as they can be seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: Version 1 writes the largest number of whole pages for "no limit".
NO_LIMIT = 1 << 60


def memory_limit(proc: Path = Path("/proc/self")) -> int:
    """Bytes that this process and those beside it in its container may use together; at most the machine's memory."""
    limits = [limit for file in _limit_files(proc) if (limit := _read(file)) is not None]
    return min([*limits, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")])


def resident(proc: Path = Path("/proc/self")) -> int:
    """Bytes of memory that this process has now."""
    pages = int((proc / "statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _limit_files(proc: Path) -> Iterator[Path]:
    """Yield the files that may hold a limit, from this process's group upwards."""
    group_of = {controllers: path for _, controllers, path in _groups(proc)}
    for root, mount, kind, options in _mounts(proc):
        if kind == "cgroup2" and "" in group_of:
            yield from _upwards(mount, root, group_of[""], "memory.max")
        elif kind == "cgroup" and "memory" in options.split(","):
            mine = next((path for names, path in group_of.items() if "memory" in names.split(",")), None)
            if mine is not None:
                yield from _upwards(mount, root, mine, "memory.limit_in_bytes")


def _groups(proc: Path) -> Iterator[list[str]]:
    """Of /proc/self/cgroup: hierarchy, its controllers ("" for version 2), path (cgroups(7))."""
    for line in (proc / "cgroup").read_text(encoding="utf-8").splitlines():
        yield line.split(":", 2)


def _mounts(proc: Path) -> Iterator[tuple[str, str, str, str]]:
    """Of /proc/self/mountinfo: root within the file system, mount point, type, the file system's options (proc(5))."""
    for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        mounted, described = before.split(), after.split()
        yield mounted[3], mounted[4], described[0], described[-1]


def _upwards(mount: str, root: str, group: str, name: str) -> Iterator[Path]:
    """Yield the group's file and those above it, up to the mount point.

    A container may see its own group as the root of the mount, while its path is the host's: the mount point serves.
    """
    inside = PurePosixPath(group)
    below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
    for part in (below, *below.parents):
        yield Path(mount) / part / name


def _read(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # the root group has none, and a group above may be out of sight
    return None if text == "max" or int(text) >= NO_LIMIT else int(text)
