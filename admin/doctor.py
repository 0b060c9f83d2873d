"""Proves the invariants of the one idea (the database is the truth) on a live system, and mends what may be mended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from admin.console import ACTOR
from admin.invariants import INVARIANTS, Invariant, Mend, broken
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import AuditEntry, ModelBundle
from shared.errors import ModelError
from shared.inference.bundle_store import check
from shared.storage import Storage, is_whole
from shared.studies.orphans import orphans

#: The sweeper looks for orphans once an hour.
ORPHAN_GRACE = timedelta(hours=2)
LIVE = sa.text("""
    SELECT DISTINCT i.object_key, i.sha256 FROM images i JOIN jobs j ON j.study_id = i.study_id
    WHERE j.state IN ('queued', 'running') AND i.object_key IS NOT NULL""")


@dataclass(frozen=True)
class Finding:
    """An invariant, the ids that break it (none: it holds), and how many more there were before they were mended."""

    invariant: str
    ids: tuple[str, ...]
    mended: int = 0


class Doctor:
    """Looks at a system, and treats it where `repair` is set, through its database and its store."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, *, repair: bool) -> None:
        self._settings, self._database, self._storage, self._repair = settings, database, storage, repair

    def examine(self) -> Iterator[Finding]:
        """Every invariant with what breaks it, each as of one moment. Work goes on meanwhile."""
        for invariant in INVARIANTS:
            found = self._broken(invariant)
            if found and self._repair and invariant.mend is not None:
                self._mend(invariant.says, invariant.mend, found)
                left = self._broken(invariant)
                yield Finding(invariant.says, left, len(set(found) - set(left)))
            else:
                yield Finding(invariant.says, found)
        yield Finding("every live job's object is there, with its SHA-256", self._lost_objects())
        yield Finding("every stored model bundle is whole", self._damaged_bundles())
        yield self._orphans("no object without a row is older than a day")

    def _broken(self, invariant: Invariant) -> tuple[str, ...]:
        with self._database.transaction() as session:
            session.execute(sa.text("SET LOCAL statement_timeout = 0"))  # whole tables are read
            return broken(session, invariant, self._settings)

    def _mend(self, says: str, mend: Mend, ids: Sequence[str]) -> None:
        with self._database.transaction() as session:
            session.execute(sa.text("SET LOCAL statement_timeout = 0"))
            mend(session, list(ids), self._settings)
            session.add(AuditEntry(actor=ACTOR, action="doctor.repair", subject=says))

    def _lost_objects(self) -> tuple[str, ...]:
        """Return what is lost of jobs that still live when it has been looked for.

        Their workers fail them, and say why.
        """
        lost = [row for row in self._live_objects() if not is_whole(self._storage, *row)]
        still = set(self._live_objects()) if lost else set()
        return tuple(key for key, sha256 in lost if (key, sha256) in still)

    def _live_objects(self) -> list[tuple[str, str]]:
        with self._database.transaction() as session:
            return [(row.object_key, row.sha256) for row in session.execute(LIVE)]

    def _damaged_bundles(self) -> tuple[str, ...]:
        """Return what `thoraq-admin models push` mends."""
        with self._database.transaction() as session:
            bundles = session.scalars(sa.select(ModelBundle.sha256).where(ModelBundle.stored)).all()
        return tuple(sha256 for sha256 in bundles if not self._is_bundle_whole(sha256))

    def _is_bundle_whole(self, sha256: str) -> bool:
        try:
            check(sha256, self._storage)
        except ModelError:
            return False
        return True

    def _orphans(self, says: str) -> Finding:
        age = timedelta(hours=self._settings.orphan_hours) + ORPHAN_GRACE
        found = tuple(key for some in orphans(self._database, self._storage, age) for key in some)
        if not self._repair:
            return Finding(says, found)
        for key in found:
            self._storage.delete(key)
        return Finding(says, (), len(found))
