"""A row that a request names, or the error that there is none."""

from __future__ import annotations

from typing import TypeVar

from shared.errors import NotFound

Row = TypeVar("Row")


def existing(row: Row | None, what: str) -> Row:
    """Return the row; NotFound, which names `what` it would be, if there is none. Another tenant's counts as none."""
    if row is None:
        raise NotFound(f"no such {what}")
    return row
