"""Many rows, of several tables, by one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from shared.db.tables import Base

#: A table and the rows that it gets.
Rows = tuple[type[Base], Sequence[Mapping[str, Any]]]


def insert_rows(session: Session, *tables: Rows) -> None:
    """Insert rows by one statement, however many and of however many tables; no statement for none.

    Rows may refer to one another: foreign keys are checked when all of them are in. A row maps columns, by their names
    in the database, to JSON values (times in ISO 8601, bytes as `\\x` and hexadecimal digits). All rows of a table have
    the same columns; the others take their defaults.
    """
    filled = [(table, rows) for table, rows in tables if rows]
    if filled:
        session.flush()  # what the rows refer to may still be pending
        shapes = tuple((table.__tablename__, tuple(rows[0])) for table, rows in filled)
        session.execute(_insertion(shapes), {table.__tablename__: rows for table, rows in filled})


@lru_cache
def _insertion(shapes: tuple[tuple[str, tuple[str, ...]], ...]) -> sa.Insert:
    *others, last = [insertion(*shape) for shape in shapes]
    return last.add_cte(*(other.cte(f"into_{other.table.name}") for other in others))


def insertion(table: str, columns: tuple[str, ...], unless: tuple[str, sa.Select[Any]] | None = None) -> sa.Insert:
    """Make the insertion of rows that come as the parameter of the table's name, `unless` a column is selected."""
    # All rows are one parameter: a VALUES list would be another statement, planned anew, for every number of rows.
    rows = sa.func.json_populate_recordset(sa.literal_column(f"NULL::{table}"), sa.bindparam(table, type_=JSON))
    records = rows.table_valued(*columns)
    wanted = sa.select(*records.c)
    if unless is not None:
        wanted = wanted.where(records.c[unless[0]].not_in(unless[1]))
    return Base.metadata.tables[table].insert().from_select(columns, wanted)
