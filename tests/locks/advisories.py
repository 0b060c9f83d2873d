"""`python -m tests.locks.advisories`: locks against advisories.toml: what is below it, and why it must not be."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

LOCKS = Path(__file__).parents[2] / "locks"
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def findings(text: str) -> Iterator[str]:
    """What is wrong with a lock file's text."""
    known = tomllib.loads((LOCKS / "advisories.toml").read_text(encoding="utf-8"))
    for name, version in PINNED.findall(text):
        entry = known.get(name)
        if entry is not None and (entry["least"] == "0" or Version(version) < Version(entry["least"])):
            yield f"{name} {version}: {', '.join(entry['advisories'])}"


def bundled(text: str) -> dict[str, str]:
    """What wheels carry inside, by wheel, as a lock would name it; without what is accepted for a stated reason."""
    listed = tomllib.loads(text)
    accepted = listed.pop("accepted", {})
    return {
        f"{wheel} {version}": "".join(
            # 1.1.1k of OpenSSL: packaging knows no letters there
            f"{name}=={found.rstrip('abcdefghijklmnopqrstuvwxyz')}\n"
            for name, found in components.items()
            if name not in accepted.get(wheel, {})
        )
        for wheel, versions in listed.items()
        for version, components in versions.items()
    }


def main() -> int:
    """0 when nothing is wrong."""
    texts = {lock.name: lock.read_text(encoding="utf-8") for lock in sorted(LOCKS.glob("*.lock"))}
    texts |= bundled((LOCKS / "bundled.toml").read_text(encoding="utf-8"))
    wrong = [f"{where}: {finding}" for where, text in texts.items() for finding in findings(text)]
    print("\n".join(wrong) or "no lock and no wheel has a version with a hole that locks/advisories.toml knows")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
