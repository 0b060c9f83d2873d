"""Proves the invariants of the one idea (the database is the truth) on a live system. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db import Database
from shared.errors import ModelError
from shared.model_store import check
from shared.models import ModelBundle
from shared.orphans import orphans
from shared.storage import Storage, is_whole


@dataclass(frozen=True)
class Finding:
    """An invariant and the ids that break it; no ids: it holds."""

    invariant: str
    ids: tuple[str, ...]


QUERIES = {
    "a job that succeeded has a result": """
        SELECT id FROM jobs LEFT JOIN results ON job_id = id WHERE state = 'succeeded' AND job_id IS NULL""",
    "a result belongs to a job that succeeded": """
        SELECT job_id FROM results JOIN jobs ON id = job_id WHERE state <> 'succeeded'""",
    "an event has one delivery per endpoint that was subscribed": """
        SELECT e.id FROM events e JOIN webhook_endpoints w ON w.tenant_id = e.tenant_id AND w.enabled
        AND w.created_at <= e.created_at AND (e.type = ANY (w.events) OR '*' = ANY (w.events))
        LEFT JOIN deliveries d ON d.event_id = e.id AND d.endpoint_id = w.id WHERE d.id IS NULL""",
    "no lease ran out over a minute ago": """
        SELECT id FROM jobs WHERE state = 'running' AND lease_until < now() - interval '1 minute'""",
    "a batch counts its jobs rightly": """
        SELECT b.id FROM batches b LEFT JOIN (
            SELECT batch_id, count(*) FILTER (WHERE state = 'queued') AS queued,
                count(*) FILTER (WHERE state = 'running') AS running,
                count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                count(*) FILTER (WHERE state = 'failed') AS failed,
                count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
                count(*) FILTER (WHERE state = 'quarantined') AS quarantined
            FROM jobs WHERE batch_id IS NOT NULL GROUP BY batch_id
        ) j ON j.batch_id = b.id
        WHERE (b.queued, b.running, b.succeeded, b.failed, b.cancelled, b.quarantined) IS DISTINCT FROM (
            coalesce(j.queued, 0), coalesce(j.running, 0), coalesce(j.succeeded, 0), coalesce(j.failed, 0),
            coalesce(j.cancelled, 0), coalesce(j.quarantined, 0))""",
    "a batch is complete when all of it is in and nothing of it is left to do": """
        SELECT id FROM batches
        WHERE (received_at IS NOT NULL AND queued + running = 0) <> (completed_at IS NOT NULL)""",
}

# The sweeper removes them after orphan_hours, a day; this is well beyond.
ORPHAN_AGE = timedelta(days=2)

LIVE_OBJECTS = """
    SELECT DISTINCT i.object_key, i.sha256 FROM images i JOIN jobs j ON j.study_id = i.study_id
    WHERE j.state IN ('queued', 'running') AND i.object_key IS NOT NULL"""


def examine(database: Database, storage: Storage) -> list[Finding]:
    """Every invariant, with what breaks it."""
    with database.transaction() as session:
        findings = [Finding(invariant, tuple(session.scalars(sa.text(query)))) for invariant, query in QUERIES.items()]
        findings.append(Finding("every live job's object is there, with its SHA-256", _broken(session, storage)))
        bundles = session.scalars(sa.select(ModelBundle.sha256).where(ModelBundle.stored)).all()
    damaged = tuple(sha256 for sha256 in bundles if not _is_bundle_whole(storage, sha256))
    findings.append(Finding("every stored model bundle is whole", damaged))
    old = (key for keys in orphans(database, storage, ORPHAN_AGE) for key in keys)
    findings.append(Finding("no object without a row is older than two days", tuple(old)))
    return findings


def _broken(session: Session, storage: Storage) -> tuple[str, ...]:
    objects = session.execute(sa.text(LIVE_OBJECTS)).all()
    return tuple(key for key, sha256 in objects if not is_whole(storage, key, sha256))


def _is_bundle_whole(storage: Storage, sha256: str) -> bool:
    try:
        check(sha256, storage)
    except ModelError:
        return False
    return True
