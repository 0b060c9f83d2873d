"""No lock has a version with a known hole, and one that had would be found."""

from __future__ import annotations

import tomllib

import pytest

from tests.locks.advisories import LOCKS, findings

KNOWN = tomllib.loads((LOCKS / "advisories.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", sorted(path.name for path in LOCKS.glob("*.lock")))
def test_no_lock_has_a_version_with_a_known_hole(lock: str) -> None:
    assert list(findings((LOCKS / lock).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_version_with_a_hole_is_named_with_its_advisories(name: str) -> None:
    (found,) = findings(f"{name}==0.0.1 \\\n    --hash=sha256:00\n")
    assert all(advisory in found for advisory in KNOWN[name]["advisories"])


def test_what_is_required_is_what_is_held() -> None:
    """A package of the list that no lock has any more has no place in it, but for those that none may have."""
    locked = "".join(path.read_text(encoding="utf-8") for path in LOCKS.glob("*.lock"))
    locked += "\n" + (LOCKS / "bundled.toml").read_text(encoding="utf-8").replace(' = "', "==")
    assert [name for name, entry in KNOWN.items() if entry["least"] != "0" and f"\n{name}==" not in locked] == []
