"""Many rows, of several tables, by one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from shared.models import Base

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
    *others, last = [_of_table(*shape) for shape in shapes]
    for other in others:
        last = last.add_cte(other.cte(f"into_{other.table.name}"))
    return last


def _of_table(name: str, columns: tuple[str, ...]) -> sa.Insert:
    # All rows are one parameter: a VALUES list would be another statement, planned anew, for every number of rows.
    rows = sa.func.json_populate_recordset(sa.literal_column(f"NULL::{name}"), sa.bindparam(name, type_=JSON))
    records = rows.table_valued(*columns)
    return Base.metadata.tables[name].insert().from_select(columns, sa.select(*records.c))
