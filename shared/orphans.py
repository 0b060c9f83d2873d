"""Objects that no row names: of requests that stored their files and never committed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import sqlalchemy as sa

from shared.db import Database
from shared.models import Artifact, Image
from shared.storage import Storage

CHUNK = 500


def orphans(database: Database, storage: Storage, older_than: timedelta) -> Iterator[list[str]]:
    """The keys of orphans, as many at a time as one query asks about; young ones may belong to a request under way."""
    before = datetime.now(UTC) - older_than
    old = (info.key for info in storage.list("") if info.modified < before)
    while keys := list(islice(old, CHUNK)):
        named = sa.union_all(*(sa.select(row.object_key).where(row.object_key.in_(keys)) for row in (Image, Artifact)))
        with database.transaction() as session:
            known = set(session.scalars(named))
        yield [key for key in keys if key not in known]
