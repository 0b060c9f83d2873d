"""Objects that no row names: of requests that stored their files and never committed, of lost uploads and bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice

import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import BatchFile, Image, ModelBundle, Upload, UploadState
from shared.inference.bundle_store import bundle_of
from shared.storage import Storage

CHUNK = 500


def orphans(database: Database, storage: Storage, older_than: timedelta) -> Iterator[list[str]]:
    """Yield the keys of orphans, as many at a time as one query asks about.

    Young ones may belong to a request under way.

    A list, which may be empty, comes for every so many objects: whoever reads them sees that it gets on.
    """
    # By the database's clock: one that goes wrong here must not make every object old.
    with database.transaction() as session:
        now: datetime = session.execute(sa.select(sa.func.now())).scalar_one()
    before = now - older_than
    listed = storage.list("")
    while some := list(islice(listed, CHUNK)):
        old = [info.key for info in some if info.modified < before]
        yield _nameless(database, old) if old else []


def _nameless(database: Database, keys: Sequence[str]) -> list[str]:
    bundles = {bundle for key in keys if (bundle := bundle_of(key)) is not None}
    with database.transaction() as session:
        known = set(session.scalars(sa.select(Image.object_key).where(Image.object_key.in_(keys))))
        known |= set(session.scalars(sa.select(BatchFile.object_key).where(BatchFile.object_key.in_(keys))))
        # A used upload's object is an image's, or of no use: the study had the same bytes already.
        unused = sa.select(Upload.object_key).where(Upload.state != UploadState.USED)
        known |= set(session.scalars(unused.where(Upload.object_key.in_(keys))))
        known |= set(session.scalars(sa.select(ModelBundle.sha256).where(ModelBundle.sha256.in_(bundles))))
    return [key for key in keys if key not in known and bundle_of(key) not in known]
