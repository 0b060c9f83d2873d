"""The folder of `make run`: whose it is, and who may enter it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shared.errors import ConfigError
from standalone.folder import DataFolder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("content", [[], ["secrets.json", "logs"]], ids=["empty", "ours"])
def test_a_folder_that_others_may_enter_is_closed(tmp_path: Path, content: list[str]) -> None:
    path = tmp_path / "data"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    for name in content:
        (path / name).write_text("{}")
    folder = DataFolder(path)
    folder.take()
    folder.release()
    assert mode(path) == 0o700


def test_a_folder_of_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o755)
    (path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="holds other things"):
        DataFolder(path).take()
    assert mode(path) == 0o755


def test_the_settings_are_for_the_owner_and_read_by_a_shell(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.take()
    values = {"THORAQ_A": 'it\'s $HOME `id` "x" \\n', "THORAQ_B": "two words"}
    folder.write_environment(values)
    file = tmp_path / "data" / "env"
    folder.release()
    assert mode(file) == 0o600
    script = f'. "{file}"; printf "%s|%s" "$THORAQ_A" "$THORAQ_B"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "|".join(values.values())


def test_damaged_secrets_are_told(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(ConfigError, match=r"secrets\.json is damaged"):
        DataFolder(tmp_path).secret("a")


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used: File name too long"):
        DataFolder(tmp_path / ("x" * 300)).take()
