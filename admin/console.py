"""What the commands of operators share: the database, and how they print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shared.config import settings
from shared.db import Database
from shared.errors import ThoraqError

ACTOR = "thoraq-admin"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
console = Console()


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """Our errors become one line and exit code 1."""
    try:
        yield
    except ThoraqError as error:
        typer.echo(f"thoraq-admin: {error.detail}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def open_database() -> Iterator[Database]:
    """The database, with our errors told in one line and exit code 1."""
    with told_in_a_line():
        database = Database(settings(), pool_size=1)
        try:
            yield database
        finally:
            database.close()


def show(columns: list[str], rows: list[dict[str, object]], as_json: bool) -> None:
    """Rows as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, default=str))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)
