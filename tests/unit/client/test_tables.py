"""Every table as it looks at 60, 80 and 100 columns: nothing is cut, and nothing folds to a few letters."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.text import Text

from console.terminal import Column, duration, print_rows, stdout
from tests.rendered_tables import DIGEST, FILE, TABLES, WIDTHS, path_of, rendered, terminal

EVERY = pytest.mark.parametrize("show", TABLES, ids=lambda show: show.__name__)
AT_EACH_WIDTH = pytest.mark.parametrize("width", [*WIDTHS, 40, 137])


@pytest.mark.parametrize("width", WIDTHS)
@EVERY
def test_a_table_looks_as_it_is_written_down(show: Callable[[], None], width: int) -> None:
    assert rendered(show, width) == path_of(show, width).read_text(encoding="utf-8"), (
        "look at what `python -m tests.rendered_tables` changes"
    )


@AT_EACH_WIDTH
@EVERY
def test_ids_are_never_cut(show: Callable[[], None], width: int) -> None:
    cut = re.findall(r"\b(?:job|batch|key|ten)_\w*", rendered(show, width))
    assert all(re.fullmatch(r"(?:job|batch|key|ten)_[0-9a-f]{32}", one) for one in cut), cut


@AT_EACH_WIDTH
@EVERY
def test_only_words_that_are_wider_than_the_terminal_leave_it(show: Callable[[], None], width: int) -> None:
    for line in rendered(show, width).splitlines():
        word = line.rsplit("  ", 1)[-1]
        assert cell_len(line) <= width or " " not in word, line


@AT_EACH_WIDTH
@EVERY
def test_no_column_of_words_is_narrow(show: Callable[[], None], width: int) -> None:
    lines = rendered(show, width).splitlines()
    for heading in (line for line, below in itertools.pairwise(lines) if below.startswith("───")):
        last = heading.split()[-1]
        if last in {"Problem", "Probabilities", "Reasons"}:
            assert width - heading.index(last) >= 16, heading


def test_what_is_left_out_is_named_and_the_least_important_goes_first() -> None:
    columns = [
        Column[int]("Id", lambda _: "x" * 20),
        Column[int]("First", lambda _: "1" * 20, leaves=1),
        Column[int]("Second", lambda _: "2" * 20, leaves=2),
    ]
    seen = {}
    for width in (64, 63, 41, 20):
        with terminal(width) as screen:
            print_rows([1], columns)
        seen[width] = screen.getvalue()
    assert "Left out" not in seen[64]
    assert "Left out at this width: First." in seen[63]
    assert "2" * 20 in seen[63]
    assert "First, Second" in seen[41]
    assert "x" * 20 in seen[20]


def test_a_record_leaves_nothing_out_and_breaks_no_word() -> None:
    columns = [Column[int]("SHA-256", lambda _: DIGEST), Column[int]("File", lambda _: FILE, leaves=1)]
    with terminal(50) as screen:
        print_rows([1, 2], columns)
    assert screen.getvalue().count(DIGEST) == screen.getvalue().count(Path(FILE).name) == 2


def test_wide_letters_count_as_the_terminal_shows_them() -> None:
    columns = [Column[str]("Label", lambda label: label), Column[str]("Id", lambda _: "y" * 20)]
    with terminal(40) as screen:
        print_rows(["胸部"], columns)
    heading, _, row = screen.getvalue().splitlines()
    assert (Text.from_ansi(heading).plain.index("Id"), row) == (7, f"胸部   {'y' * 20}")


def test_letters_that_move_the_cursor_are_not_printed() -> None:
    with terminal(60) as screen:
        print_rows(["a\x1b[2Jb\nc\udcff"], [Column[str]("File", lambda name: name)])
    assert "a?[2Jb?c?" in screen.getvalue()


def test_a_pipe_has_every_column_and_no_id_is_cut_there(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column[int](str(number), lambda _: DIGEST, leaves=number) for number in range(5)]
    print_rows([1], columns, console=stdout())
    printed = capsys.readouterr().out
    assert printed.count(DIGEST) == 5
    assert "Left out" not in printed


@pytest.mark.parametrize(
    ("seconds", "text", "exact"),
    [
        (0, "0 s", "0 s"),
        (59.4, "59 s", "59 s"),
        (59.6, "1 min", "1 min"),
        (120, "2 min", "2 min"),
        (130, "2 min", "2 min 10 s"),
        (3599, "1 h", "59 min 59 s"),
        (3900, "1 h 5 min", "1 h 5 min"),
        (86_400, "1 d", "1 d"),
        (180_000, "2 d 2 h", "2 d 2 h"),
    ],
)
def test_durations_are_read_by_people(seconds: float, text: str, exact: str) -> None:
    assert (duration(seconds), duration(seconds, exact=True)) == (text, exact)
