"""Tables that fit the terminal they are printed on.

From wide to narrow: every column that has something to say; then the optional columns leave, the least important
first, and a line names them; when even the others do not fit, each row becomes a record, a line for each column, and
nothing is left out. An id is never cut or folded: in a record, what has no spaces is printed whole even where it is
wider than the terminal, which wraps it then, so that it can be copied.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Generic, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 200  # without a terminal to ask; wider where an id would be cut
WORDS = 28  # a column of sentences is never narrower, unless its words need less
GAP = 2  # blanks between two columns

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A heading, and what stands below it for a row.

    `wraps`: its words may go on in a next line, and it is at least so many cells wide, unless they need less.
    `leaves`: it is optional, and where the terminal is narrow the columns with the smallest number leave first.
    `always`: it is there even when no row has anything to say in it.
    """

    heading: str
    cell: Callable[[Row], str]
    _: KW_ONLY
    wraps: int = 0
    leaves: int | None = None
    always: bool = False
    right: bool = False


@dataclass(frozen=True)
class _Filled:
    """A column with its texts; widths are in terminal cells."""

    heading: str
    texts: list[str]
    wraps: int
    leaves: int | None
    right: bool

    @property
    def natural(self) -> int:
        return max(map(cell_len, (self.heading, *self.texts)))

    @property
    def least(self) -> int:
        if not self.wraps:
            return self.natural
        # A path may be folded, an id or a name may not.
        longest = max(cell_len(word) for text in self.texts for word in re.split("[ /]", text))
        return min(self.natural, max(self.wraps, longest, cell_len(self.heading)))


def stdout() -> Console:
    """For the answer."""
    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=PIPED_WIDTH)


def stderr() -> Console:
    """For what is not the answer: progress, hints, errors."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def note(text: str, console: Console | None = None) -> None:
    """Print sentences on standard error; on a terminal no word of theirs is broken, and none anywhere is cut."""
    console = console or stderr()
    for paragraph in text.split("\n"):
        for line in _lines(paragraph, console.width) if console.is_terminal else (paragraph,):
            console.print(line)


def print_rows(
    rows: Sequence[Row], columns: Sequence[Column[Row]], *, title: str | None = None, console: Console | None = None
) -> None:
    """Print rows as a table or, where that does not fit, as records; `None.` when there are none."""
    console = console or stdout()
    if not rows:
        console.print("None.")
        return
    filled = list(_filled(columns, rows))
    if not console.is_terminal:
        console.width = max(console.width, _needed(filled))
    if title:
        console.print(Text(title, style="italic"))
    shown = _fitting(filled, console.width)
    if _needed(shown) > console.width:
        _print_records(console, filled)
        return
    console.print(_table(shown, console.width))
    if len(shown) < len(filled):
        left_out = ", ".join(column.heading for column in filled if column not in shown)
        console.print(f"Left out at this width: {left_out}.")


def duration(seconds: float, *, exact: bool = False) -> str:
    """Return what a person reads: `45 s`, `2 min`, `1 h 5 min`, `2 d 3 h`. `exact` keeps the seconds of minutes."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if exact and seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def moment(at: datetime) -> str:
    """To the minute in this machine's zone, with its offset from UTC: two people may read the same table."""
    return at.astimezone().isoformat(sep=" ", timespec="minutes")


def printable(text: str) -> str:
    """Return the text, with `?` for what would move the cursor or that standard output cannot show.

    A file name may hold bytes that no encoding explains, and control characters.
    """
    encoding = sys.stdout.encoding or "utf-8"
    known = text.encode(encoding, "replace").decode(encoding)
    return "".join(letter if letter.isprintable() else "?" for letter in known)


def _filled(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Iterator[_Filled]:
    for column in columns:
        texts = [printable(column.cell(row)) for row in rows]
        if column.always or any(texts):  # an empty column only takes up room
            yield _Filled(column.heading, texts, column.wraps, column.leaves, column.right)


def _needed(columns: Sequence[_Filled]) -> int:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _fitting(columns: Sequence[_Filled], room: int) -> list[_Filled]:
    """Return the columns without those optional ones that have to leave.

    Too wide still if all of these do not suffice.
    """
    shown = list(columns)
    leaving = sorted((one for one in columns if one.leaves is not None), key=lambda one: one.leaves or 0, reverse=True)
    while leaving and _needed(shown) > room:
        shown.remove(leaving.pop())
    return shown


def _widths(columns: Sequence[_Filled], room: int) -> list[int]:
    """Return what each column needs at least; those that wrap share what is left, as far as they have a use for it."""
    widths = [column.least for column in columns]
    spare = room - _needed(columns)
    while spare > 0 and (needy := [at for at, one in enumerate(columns) if widths[at] < one.natural]):
        share = max(1, spare // len(needy))
        for at in needy[:spare]:
            more = min(share, columns[at].natural - widths[at])
            widths[at] += more
            spare -= more
    return widths


def _table(columns: Sequence[_Filled], room: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), show_edge=False, pad_edge=False)
    for column, width in zip(columns, _widths(columns, room), strict=True):
        table.add_column(
            column.heading,
            width=width,
            overflow="fold",
            no_wrap=not column.wraps,
            justify="right" if column.right else "left",
        )
    for texts in zip(*(column.texts for column in columns), strict=True):
        table.add_row(*texts)
    return table


def _print_records(console: Console, columns: Sequence[_Filled]) -> None:
    label = max(cell_len(column.heading) for column in columns) + GAP
    for number in range(len(columns[0].texts)):
        if number:
            console.print()
        for column in columns:
            if column.texts[number]:
                _print_value(console, column.heading, column.texts[number], label)


def _print_value(console: Console, heading: str, text: str, label: int) -> None:
    """Print a heading and its value, whose words go on below its beginning; a word is never broken."""
    begin = Text(heading + " " * (label - cell_len(heading)), style="bold")
    for line in _lines(text, console.width - label):
        console.print(begin + line, soft_wrap=True)
        begin = Text(" " * label)


def _lines(text: str, room: int) -> Iterator[str]:
    """Yield the words in lines of so many cells; one that is wider has a line of its own. (Rich would break it.)"""
    line, *words = text.split(" ")
    for word in words:
        if cell_len(f"{line} {word}") > room:
            yield line
            line = word
        else:
            line = f"{line} {word}"
    yield line
