"""Studies that are deleted, on request or because they are too old: rows first, then objects; a tombstone is left.

The rows go in one transaction, which leaves the keys of the objects with the tombstone; whoever made it removes them,
and the sweeper what he could not. Jobs that are under way lose their lease with their row, so whatever a worker writes
of them finds nothing to be written to. Every function takes the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.db.tables import (
    Artifact,
    AuditEntry,
    Base,
    Batch,
    BatchFile,
    BatchRejection,
    Delivery,
    Event,
    IdempotencyKey,
    Image,
    Job,
    Result,
    Study,
    Tenant,
    Tombstone,
    Upload,
)
from shared.jobs import states

#: Actor of what the sweeper deletes.
RETENTION = "retention"


def delete_studies(session: Session, tenant_id: str, study_ids: Sequence[str], actor: str) -> list[str]:
    """Delete the tenant's studies with all that is of them; the ids of those that were there."""
    mine = sa.select(Study.id).where(Study.tenant_id == tenant_id, Study.id.in_(study_ids))
    # Whoever adds images to one, or asks about one, waits for this lock, and then finds nothing.
    found = list(session.scalars(mine.order_by(Study.id).with_for_update()))
    if not found:
        return []
    job_ids = states.withdraw(session, found)
    keys = session.execute(
        sa.select(Image.study_id, sa.func.array_agg(sa.distinct(Image.object_key)))
        .where(Image.study_id.in_(found), Image.object_key.is_not(None))
        .group_by(Image.study_id)
    ).all()
    objects = {study_id: [name for name in names if name is not None] for study_id, names in keys}
    _delete_events(session, Event.job_id.in_(job_ids))
    # An answer to the same bytes of another study is that one's own, wherever it was first found.
    _execute(session, sa.update(Result).where(Result.reused_from.in_(job_ids)).values(reused_from=None))
    for table, which in (
        (Artifact, Artifact.job_id.in_(job_ids)),
        (Result, Result.job_id.in_(job_ids)),
        (Job, Job.id.in_(job_ids)),
        (Upload, Upload.object_key.in_([key for names in objects.values() for key in names])),
        (Image, Image.study_id.in_(found)),
        (
            IdempotencyKey,
            sa.and_(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.resource_id.in_(job_ids + found)),
        ),
        (Study, Study.id.in_(found)),
    ):
        _delete(session, table, which)
    _bury(session, tenant_id, {study_id: objects.get(study_id, []) for study_id in found})
    _record(session, tenant_id, actor, [("study.delete", study_id) for study_id in found])
    _record(session, tenant_id, actor, [("job.delete", job_id) for job_id in job_ids])
    return found


def _bury(session: Session, tenant_id: str, objects: dict[str, list[str]]) -> None:
    graves = [{"study_id": study_id, "tenant_id": tenant_id, "object_keys": keys} for study_id, keys in objects.items()]
    session.execute(insert(Tombstone).values(graves))


def _record(session: Session, tenant_id: str, actor: str, acts: Sequence[tuple[str, str]]) -> None:
    session.add_all(
        AuditEntry(tenant_id=tenant_id, actor=actor, action=action, subject=subject) for action, subject in acts
    )


def _delete_events(session: Session, which: sa.ColumnElement[bool]) -> None:
    told = sa.select(Event.id).where(which)
    _delete(session, Delivery, Delivery.event_id.in_(told))
    _delete(session, Event, which)


def _delete(session: Session, table: type[Base], which: sa.ColumnElement[bool]) -> None:
    _execute(session, sa.delete(table).where(which))


def _execute(session: Session, statement: sa.Update | sa.Delete) -> None:
    session.execute(statement.execution_options(synchronize_session=False))


def pending_objects(session: Session, limit: int) -> dict[str, list[str]]:
    """Objects of deleted studies that may still be there, by study."""
    left = sa.select(Tombstone.study_id, Tombstone.object_keys).where(sa.func.cardinality(Tombstone.object_keys) > 0)
    return {row.study_id: row.object_keys for row in session.execute(left.limit(limit))}


def pending_objects_of(session: Session, study_id: str) -> list[str]:
    """As `pending_objects`, of one study."""
    return session.scalar(sa.select(Tombstone.object_keys).where(Tombstone.study_id == study_id)) or []


def note_removed(session: Session, study_ids: Sequence[str]) -> None:
    """Note that the objects of these deleted studies are gone."""
    _execute(session, sa.update(Tombstone).where(Tombstone.study_id.in_(study_ids)).values(object_keys=[]))


def expired(session: Session, limit: int) -> dict[str, list[str]]:
    """Studies that are older than their tenant keeps them, at most so many, by tenant."""
    found: dict[str, list[str]] = {}
    for tenant_id, before in _limits(session):
        # Ids begin with their time: the primary key is read from its beginning to that time.
        early = sa.select(Study.id).where(Study.id < _first("stu", before), Study.tenant_id == tenant_id)
        ids = list(session.scalars(early.where(Study.created_at < before).order_by(Study.id).limit(limit)))
        if ids:
            found[tenant_id] = ids
    return found


def delete_old_batches(session: Session, limit: int) -> list[str]:
    """Delete batches that are too old and have no job any more, with what they say of their files; their ids."""
    gone: list[str] = []
    for tenant_id, before in _limits(session):
        empty = ~sa.exists().where(Job.batch_id == Batch.id)
        old = sa.and_(Batch.tenant_id == tenant_id, Batch.created_at < before, Batch.completed_at.is_not(None), empty)
        ids = list(session.scalars(sa.select(Batch.id).where(old).order_by(Batch.id).limit(limit).with_for_update()))
        _delete_events(session, Event.batch_id.in_(ids))
        _delete(session, BatchRejection, BatchRejection.batch_id.in_(ids))
        _delete(session, BatchFile, BatchFile.batch_id.in_(ids))
        _delete(session, Batch, Batch.id.in_(ids))
        _record(session, tenant_id, RETENTION, [("batch.delete", batch_id) for batch_id in ids])
        gone += ids
    return gone


def _limits(session: Session) -> list[tuple[str, datetime]]:
    """Tenants that keep studies for so long only, and the time before which a study of theirs is too old."""
    wanted = sa.select(Tenant.id, Tenant.expires_after_days, sa.func.now()).where(
        Tenant.expires_after_days.is_not(None)
    )
    return [(row[0], row[2] - timedelta(days=row[1])) for row in session.execute(wanted) if row[1] is not None]


def _first(prefix: str, at: datetime) -> str:
    """Not above the id of anything made at that time or later, give or take a minute between clocks."""
    return f"{prefix}_{max(int((at + timedelta(minutes=1)).timestamp() * 1000), 0):012x}"
