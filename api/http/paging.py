"""A list's page, newest first: the cursor is the id of the last row of the page before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")
Id = TypeVar("Id")


def page_of(
    session: Session, wanted: sa.Select[Row], ids: InstrumentedAttribute[Id], cursor: Id | None, limit: int
) -> tuple[Sequence[Row], Id | None]:
    """Return at most `limit` of the wanted rows, and the cursor of the next page; None when there are no more."""
    if cursor is not None:
        wanted = wanted.where(ids < cursor)
    found = session.scalars(wanted.order_by(ids.desc()).limit(limit + 1)).all()
    rows = found[:limit]
    return rows, getattr(rows[-1], ids.key) if len(found) > limit else None
