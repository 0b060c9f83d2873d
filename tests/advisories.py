"""`python -m tests.advisories`: every lock against locks/advisories.toml; what is below it, and why it must not be."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

LOCKS = Path(__file__).parents[1] / "locks"
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def findings(text: str) -> Iterator[str]:
    """What is wrong with a lock file's text."""
    known = tomllib.loads((LOCKS / "advisories.toml").read_text(encoding="utf-8"))
    for name, version in PINNED.findall(text):
        entry = known.get(name)
        if entry is not None and (entry["least"] == "0" or Version(version) < Version(entry["least"])):
            yield f"{name} {version}: {', '.join(entry['advisories'])}"


def main() -> int:
    """0 when nothing is wrong."""
    wrong = [
        f"{lock.name}: {finding}"
        for lock in sorted(LOCKS.glob("*.lock"))
        for finding in findings(lock.read_text(encoding="utf-8"))
    ]
    print("\n".join(wrong) or "no lock has a version with a hole that locks/advisories.toml knows")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
