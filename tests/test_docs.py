"""What the documentation says is so."""

from __future__ import annotations

import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from importlib.metadata import version
from typing import Any

import pytest
import typer
import yaml

from admin.__main__ import app as admin
from api.http.problems import problem_types
from client.cli import app as thoraq
from shared.db.tables import JobState
from shared.version import VERSION
from tests import metrics_table, problems_table, settings_table
from tests.documented import DOCS, README, ROOT, console_commands, name_of, pages

PAGES = {name_of(page): page.read_text(encoding="utf-8") for page in pages()}
EVERYTHING = "\n".join(PAGES.values())
PARTS = "api|worker|shared|client|console|admin|standalone|migrations|training|tests|bench"
STATES = DOCS / "explain" / "job-states.md"


def test_the_settings_table_is_true() -> None:
    page = settings_table.PAGE.read_text(encoding="utf-8")
    assert settings_table.with_table(page) == page, "run `python -m tests.settings_table`"


def test_the_page_of_problems_is_true() -> None:
    assert problems_table.PAGE.read_text(encoding="utf-8") == problems_table.page(), (
        "run `python -m tests.problems_table`"
    )


def test_the_metrics_table_is_true() -> None:
    page = metrics_table.PAGE.read_text(encoding="utf-8")
    assert metrics_table.with_table(page) == page, "run `python -m tests.metrics_table`"
    read_from_the_database = re.findall(r'"(thoraq_\w+)"', (ROOT / "api" / "health.py").read_text(encoding="utf-8"))
    assert read_from_the_database
    assert [name for name in read_from_the_database if f"| `{name}` |" not in page] == []


def test_every_problem_says_what_helps() -> None:
    for kind in problem_types():
        assert kind.remedy, kind
        assert kind.__doc__, kind
        assert 400 <= kind.status < 600, kind


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_one_place_says_the_version() -> None:
    assert version("thoraq") == VERSION, "run `make setup`"


def test_every_test_that_a_page_names_exists() -> None:
    named = set(re.findall(r"\btest_\w+\.py", EVERYTHING))
    assert named
    assert named - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_links_to_exists(name: str) -> None:
    """Sphinx sees to the links within docs/; this also sees those that the repository alone has."""
    folder = (ROOT / name).parent
    links = re.findall(r"(?:\]\(|^\[\w+\]: )(?!https?:)([^)#\s]+)", PAGES[name], re.MULTILINE)
    assert [link for link in links if not (folder / link).exists()] == []


def test_every_source_file_that_a_page_names_exists() -> None:
    named = set(re.findall(rf"(?<![\w/.])((?:{PARTS})/[\w./]*\w\.(?:py|toml|md)|(?:{PARTS})/(?:[\w]+/)*)", EVERYTHING))
    assert len(named) > 50
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_functions_on_a_jobs_way_are_where_the_page_says() -> None:
    named = re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", EVERYTHING)
    assert named
    assert [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")] == []


def texts_of(picture: str, kind: str) -> list[str]:
    """The texts of a class in a picture."""
    tree = ET.parse(DOCS / "pictures" / picture)  # noqa: S314 - it is our own file
    return [element.text or "" for element in tree.iter() if element.get("class") == kind]


def test_the_picture_of_a_jobs_way_names_files_that_exist() -> None:
    named = [name for text in texts_of("way.svg", "code") for name in text.split(", ")]
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_picture_of_threads_names_threads_that_exist() -> None:
    """Threads of a runner are named after its queue, and decoders' after their lane."""
    named = {name for text in texts_of("processes.svg", "code") for name in re.findall(r"[a-z]+-[a-z]+", text)}
    parts = (ROOT / "api", ROOT / "worker", ROOT / "shared")
    code = "\n".join(path.read_text(encoding="utf-8") for part in parts for path in part.rglob("*.py"))
    assert {"claim-ahead", "classify-beat", "decode-slow"} <= named
    ends = {name: name.partition("-")[2] for name in named if name.startswith(("classify-", "decode-"))}
    assert sorted(name for name in named if f'"{ends.get(name, name)}"' not in code) == []


def test_the_states_are_shown_as_they_are() -> None:
    page = STATES.read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(\w+)` \| [^`|]", page, re.MULTILINE))
    assert explained == {state.value for state in JobState}
    ways = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    tree = ET.parse(DOCS / "pictures" / "states.svg")  # noqa: S314 - it is our own file
    drawn = {(element.get("data-from"), element.get("data-to")) for element in tree.iter() if element.get("data-to")}
    assert drawn == ways


def test_every_make_target_of_a_page_exists() -> None:
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", EVERYTHING, re.MULTILINE))
    assert len(targets) > 10
    shown = subprocess.run(
        ["make", "--dry-run", *targets, "DATA=samples"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(("page", "command"), console_commands())
def test_every_command_that_needs_a_deployment_is_well_formed(page: str, command: str) -> None:
    """What `sh` blocks say is run; these need a hospital or a container engine: `make test-compose` runs some."""
    words = shlex.split(command)
    if words[0] == "thoraq-admin":
        parse(admin, words[1:])
    elif words[0] == "thoraq":
        parse(thoraq, words[1:])
    elif words[:2] == ["docker", "compose"]:
        check_compose(words[2:])
    else:
        assert words[0] in {"make", "git", "echo", "cat", "SECRET=whsec_..."}, f"{page}: nothing checks {command!r}"


def parse(app: typer.Typer, words: list[str]) -> None:
    """Read the words as the command does, without doing it; an error if it has no such option."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_parser(command.context_class(command)).parse_args(list(words))


def test_commands_that_do_not_exist_are_found() -> None:
    parse(admin, ["tenants", "set", "General Hospital", "--keep-identity"])
    with pytest.raises(AssertionError, match="no command"):
        parse(admin, ["tenant", "set"])
    with pytest.raises(Exception, match="No such option"):
        parse(admin, ["tenants", "set", "General Hospital", "--keep"])


def check_compose(words: list[str]) -> None:
    """Each service that is named is in docker-compose.yml; what runs in it is a command of ours."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    verb, *rest = words
    assert verb in {"build", "up", "run", "down", "kill"}
    if verb == "kill":
        option, _signal, *rest = rest
        assert option == "-s"
    if verb == "run":
        service = next(word for word in rest if word in services)
        inside = rest[rest.index(service) + 1 :]
        if inside:
            assert inside[:3] == ["python", "-m", "admin"]
            parse(admin, inside[3:])
    else:
        assert [word for word in rest if not word.startswith("-") and word not in services] == []


def test_no_page_has_code_that_nothing_checks() -> None:
    """`sh` and `python` are run by tests/acceptance/test_documented_commands.py; `text` is what a program prints."""
    assert set(re.findall(r"^```(\w+)", EVERYTHING, re.MULTILINE)) <= {"sh", "python", "console", "text"}
