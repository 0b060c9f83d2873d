"""What the commands of operators share: the database, and how they print."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from console.terminal import Column, moment, print_rows
from shared.config import PREFIX, settings
from shared.db.engine import Database
from shared.errors import ConfigError, ThoraqError

ACTOR = "thoraq-admin"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """Our errors become one line and exit code 1."""
    try:
        _check_environment()
        yield
    except ThoraqError as error:
        typer.echo(f"thoraq-admin: {error.detail}", err=True)
        raise typer.Exit(1) from error


def _check_environment() -> None:
    """Say where settings come from to whoever has none."""
    if f"{PREFIX}DATABASE_URL" not in os.environ and f"{PREFIX}DATABASE_URL_FILE" not in os.environ:
        raise ConfigError(
            f"no {PREFIX}DATABASE_URL in the environment: an operator's command needs the deployment's settings. "
            "Those of `make run` are in .thoraq/env: (. .thoraq/env; .venv/bin/thoraq-admin ...)"
        )


@contextmanager
def open_database() -> Iterator[Database]:
    """Open the database, with our errors told in one line and exit code 1."""
    with told_in_a_line():
        database = Database(settings(), pool_size=1)
        try:
            yield database
        finally:
            database.close()


def field(name: str, heading: str | None = None, **how: Any) -> Column[dict[str, object]]:
    """Return a column with a field of each row; `how` is as Column takes it."""
    return Column(heading or name.replace("_", " ").capitalize(), lambda row: _cell(row[name]), **how)


def show(columns: Sequence[Column[dict[str, object]]], rows: list[dict[str, object]], as_json: bool) -> None:
    """Rows as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, default=str))
    else:
        print_rows(rows, columns)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
