"""What the documentation says is so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from api.http.problems import problem_types
from shared.db.tables import JobState
from tests import problems_table
from tests.settings_table import with_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_is_true() -> None:
    assert with_table(README) == README, "run `python -m tests.settings_table`"


def test_the_page_of_problems_is_true() -> None:
    assert problems_table.PAGE.read_text(encoding="utf-8") == problems_table.page(), (
        "run `python -m tests.problems_table`"
    )


def test_every_problem_says_what_helps() -> None:
    for kind in problem_types():
        assert kind.remedy, kind
        assert kind.__doc__, kind
        assert 400 <= kind.status < 600, kind


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\btest_\w+\.py", page))
    assert named
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_source_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:api|worker|shared|client|admin|standalone|migrations|training)/[\w./]*)`", README)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_functions_on_a_jobs_way_are_where_the_readme_says() -> None:
    named = re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", README)
    assert named
    assert [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")] == []


def test_the_state_diagram_shows_every_state() -> None:
    diagram = README.split("stateDiagram-v2")[1].split("```")[0]
    assert set(re.findall(r"\b[a-z]+\b(?=:| -->)|(?<=--> )[a-z]+", diagram)) == {state.value for state in JobState}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    shown = subprocess.run(
        ["make", "--dry-run", target, "DATA=samples"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
