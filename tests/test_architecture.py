"""Who may import whom, and what a process must never load."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
ENVIRONMENT = {
    "THORAQ_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
    "THORAQ_REDIS_URL": "redis://127.0.0.1:1/0",
    "THORAQ_SECRET_KEY": "k" * 32,
}


def modules_after(statement: str) -> set[str]:
    """The names of the top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_imports_keep_their_directions() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_package_is_under_the_contracts() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(CONTRACTS["root_packages"])


def test_the_api_loads_neither_tensorflow_nor_the_worker() -> None:
    loaded = modules_after("from api import create_app; create_app()")
    assert "flask" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "worker", "training"})


@pytest.mark.parametrize("module", ["worker.app", "admin.__main__"])
def test_what_runs_in_the_api_image_starts_without_tensorflow(module: str) -> None:
    """migrate, deliver and beat are built from locks/api.lock, which has no TensorFlow."""
    assert modules_after(f"import {module}").isdisjoint({"tensorflow", "keras"})


def test_no_name_in_a_package_hides_a_module_of_it() -> None:
    """`api.jobs` would be one thing to whoever imports it and another to whoever looks it up in `api`."""
    code = (
        "import importlib, pkgutil, api, shared, worker\n"
        "for package in (api, shared, worker):\n"
        "    for found in pkgutil.iter_modules(package.__path__):\n"
        "        full = package.__name__ + '.' + found.name\n"
        "        if found.ispkg and importlib.import_module(full) is not getattr(package, found.name):\n"
        "            print(full)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
