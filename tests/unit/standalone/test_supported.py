"""What set-up says of Pythons and machines that Thoraq does not run on: one line, with the reason and what helps."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from standalone.supported import MACHINES, NEWEST, OLDEST, fault

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 4), (3, 13, 9)])
@pytest.mark.parametrize(
    ("system", "machine"), [(system, machine) for system, machines in MACHINES.items() for machine in machines]
)
def test_these_are_taken(version: tuple[int, ...], system: str, machine: str) -> None:
    assert fault(version, system, machine) is None


@pytest.mark.parametrize(
    ("version", "system", "machine", "libc", "says"),
    [
        ((3, 14, 0), "Linux", "x86_64", ("glibc", "2.41"), "TensorFlow has no wheel for 3.14 yet"),
        ((3, 15, 0), "Darwin", "arm64", ("", ""), "TensorFlow has no wheel for 3.15 yet"),
        ((3, 10, 12), "Linux", "x86_64", ("glibc", "2.41"), "this is 3.10"),
        ((3, 12, 0), "Darwin", "x86_64", ("", ""), "for Darwin on x86_64"),
        ((3, 12, 0), "Windows", "AMD64", ("", ""), "for Windows on AMD64"),
        ((3, 12, 0), "Linux", "ppc64le", ("glibc", "2.41"), "for Linux on ppc64le"),
        ((3, 12, 0), "Linux", "x86_64", ("", ""), "not Alpine"),
        ((3, 12, 0), "Linux", "x86_64", ("glibc", "2.17"), "glibc 2.28 or newer"),
        ((3, 12, 0), "Linux", "aarch64", ("glibc", "2.31"), "glibc 2.35 or newer"),
    ],
)
def test_these_are_refused_in_one_line(
    version: tuple[int, ...], system: str, machine: str, libc: tuple[str, str], says: str
) -> None:
    line = fault(version, system, machine, libc)
    assert line is not None
    assert says in line
    assert "\n" not in line


def test_this_one_is_taken_by_the_program_that_set_up_runs() -> None:
    run = subprocess.run(
        [sys.executable, "standalone/supported.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_set_up_refuses_python_3_14_in_one_line(tmp_path: Path) -> None:
    """With a program that says it is 3.14, as `make setup` calls it."""
    later = tmp_path / "python3.14"
    code = (
        "import runpy, sys; sys.version_info = (3, 14, 0, 'final', 0); runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    later.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    later.chmod(0o755)
    make = ["make", "--no-print-directory", "setup", f"PYTHON={later}", f"VENV={tmp_path / 'venv'}"]
    run = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    said = [line for line in run.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "TensorFlow has no wheel for 3.14 yet" in said[0]
    assert not (tmp_path / "venv").exists()


def test_pyproject_and_makefile_say_the_same() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert required == f">={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"({OLDEST[0]}, {OLDEST[1]}) <= sys.version_info < ({NEWEST[0]}, {NEWEST[1] + 1})" in makefile
