"""Many rows by one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from shared.models import Base


def insert_rows(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows by one statement, however many; no statement for none.

    A row maps columns, by their names in the database, to JSON values (times in ISO 8601, bytes as `\\x` and
    hexadecimal digits). All rows have the same columns; the others take their defaults.
    """
    if rows:
        session.flush()  # what the rows refer to may still be pending
        session.execute(_insertion(table.__tablename__, tuple(rows[0])), {"rows": rows})


@lru_cache
def _insertion(table: str, columns: tuple[str, ...]) -> sa.Insert:
    # All rows are one parameter: a VALUES list would be another statement, planned anew, for every number of rows.
    rows = sa.func.json_populate_recordset(sa.literal_column(f"NULL::{table}"), sa.bindparam("rows", type_=JSON))
    records = rows.table_valued(*columns)
    return Base.metadata.tables[table].insert().from_select(columns, sa.select(*records.c))
