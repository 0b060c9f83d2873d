"""The rows of a batch while its items come in: begun, taken over after a break, advanced chunk by chunk, closed.

    begin -> advance ... advance -> states.close_batch
                  break -> take_over -> advance ...

One request at a time takes items in; it is the batch's `receiver`. Every function takes the caller's transaction, and
those that write for a receiver refuse one that another request has replaced, or whose batch was cancelled meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from shared.db.bulk_insert import insert_rows
from shared.db.engine import Database
from shared.db.tables import AuditEntry, Base, Batch, BatchFile, BatchRejection, Image, Job
from shared.errors import Conflict, IdempotencyInProgress
from shared.jobs import states
from shared.jobs.batch_schemas import SHOWN_IGNORED
from shared.jobs.new_jobs import NewJob, job_rows
from shared.studies.rows import NewStudy, study_rows

#: A receiver that has shown no progress for so long may be replaced: its connection broke and nobody noticed.
RECEIVER_SECONDS = 30
#: Of the name of a file that was left out.
IGNORED_CHARACTERS = 200
#: A batch's row is not needed as an object where it is only counted in.
BATCHES = Base.metadata.tables["batches"]


@dataclass(frozen=True)
class Accepted:
    """An item that becomes a job; `study` is its study if that is new."""

    job: NewJob
    study: NewStudy | None = None


@dataclass(frozen=True)
class Rejected:
    """An item that becomes none; `problem` as it is stored with jobs and images."""

    item: int
    problem: dict[str, Any]
    member: str | None = None
    custom_id: str | None = None


def begin(
    session: Session,
    *,
    batch_id: str,
    tenant_id: str,
    receiver: str,
    external_id: str | None,
    options: dict[str, Any],
    expires_in: int | None,
) -> datetime | None:
    """Return the row of a batch of which nothing is in yet; when what has not run of it is not run any more."""
    expires_at = None if expires_in is None else sa.func.now() + timedelta(seconds=expires_in)
    row = sa.insert(Batch).values(
        id=batch_id,
        tenant_id=tenant_id,
        receiver=receiver,
        external_id=external_id,
        options=options,
        expires_at=expires_at,
    )
    return session.scalar(row.returning(Batch.expires_at))


def take_over(session: Session, batch_id: str, receiver: str) -> Batch:
    """Go on with a batch whose last request broke off; unchanged if all of it is in.

    IdempotencyInProgress while another request takes items in.
    """
    batch = session.get_one(Batch, batch_id, with_for_update={"key_share": True}, populate_existing=True)
    if batch.received_at is not None:
        return batch
    alive = Batch.progress_at > sa.func.now() - timedelta(seconds=RECEIVER_SECONDS)
    if batch.receiver is not None and session.scalar(sa.select(alive).where(Batch.id == batch_id)):
        raise IdempotencyInProgress("a request with this Idempotency-Key is still coming in")
    batch.receiver, batch.progress_at = receiver, sa.func.now()
    session.flush()
    return batch


def advance(
    session: Session,
    batch_id: str,
    receiver: str,
    items: Sequence[Accepted | Rejected] = (),
    next_item: int | None = None,
    ignored: Sequence[str] = (),
) -> None:
    """Note progress: `items` that were added, the first item that is not in, and the names of what was left out.

    Conflict if it is not its turn.

    Last in its transaction: the row is locked until the commit, and workers count in it.
    """
    rejected = sum(isinstance(item, Rejected) for item in items)
    values: dict[str, Any] = {
        "progress_at": sa.func.now(), "total": BATCHES.c.total + len(items), "rejected": BATCHES.c.rejected + rejected
    }  # fmt: skip
    if next_item is not None:
        values["next_item"] = next_item
    if ignored:
        values |= _ignored(ignored)
    columns = BATCHES.c
    open_to_it = sa.and_(columns.receiver == receiver, columns.received_at.is_(None), columns.cancelled_at.is_(None))
    if not _update(session, batch_id, values, open_to_it):
        raise Conflict("the batch was cancelled, or another request goes on with it")


def _ignored(names: Sequence[str]) -> dict[str, Any]:
    kept, columns = [name[:IGNORED_CHARACTERS] for name in names[:SHOWN_IGNORED]], BATCHES.c
    more = sa.func.array_cat(columns.ignored_names, sa.cast(kept, ARRAY(sa.Text)))
    full = sa.func.cardinality(columns.ignored_names) >= SHOWN_IGNORED
    return {
        "ignored": columns.ignored + len(names),
        "ignored_names": sa.case((full, columns.ignored_names), else_=more),
    }


def let_go(session: Session, batch_id: str, receiver: str) -> None:
    """Let another request go on at once: this one broke off."""
    _update(session, batch_id, {"receiver": None}, BATCHES.c.receiver == receiver)


def add_items(session: Session, batch_id: str, tenant_id: str, items: Sequence[Accepted | Rejected]) -> None:
    """Add the rows of items, studies, jobs, rejections, by one statement, however many. `advance` counts them."""
    accepted = [item for item in items if isinstance(item, Accepted)]
    rejected = [item for item in items if isinstance(item, Rejected)]
    of_batch = {"batch_id": batch_id, "tenant_id": tenant_id}
    insert_rows(
        session,
        *study_rows([item.study for item in accepted if item.study is not None]),
        (BatchRejection, [vars(item) | of_batch for item in rejected]),
        job_rows([item.job for item in accepted]),
    )


def _update(session: Session, batch_id: str, values: dict[str, Any], *conditions: sa.ColumnElement[bool]) -> bool:
    changed = sa.update(BATCHES).where(BATCHES.c.id == batch_id, *conditions).values(values).returning(BATCHES.c.id)
    return session.scalar(changed) is not None


def refuse(session: Session, tenant_id: str, batch_id: str, problem: dict[str, Any]) -> list[str]:
    """Its archive is refused as a whole: what has not ended is withdrawn, and nothing more is taken in.

    For its receiver, once nothing of it is being written; the keys of the files that were still to be grouped.
    """
    _update(session, batch_id, {"problem": problem})
    waiting = sa.select(BatchFile.object_key).where(BatchFile.batch_id == batch_id, BatchFile.object_key.is_not(None))
    keys = [key for key in session.scalars(waiting) if key is not None]
    states.cancel_batch(session, tenant_id, batch_id)
    states.close_batch(session, batch_id)
    return keys


def sent_before(session: Session, batch_id: str, first: int) -> dict[int, str]:
    """SHA-256 of the files that are in, from item `first` on, by item; of those that were accepted."""
    of_jobs = sa.select(Job.item, Image.sha256).join(Image, Image.study_id == Job.study_id)
    of_jobs = of_jobs.where(Job.batch_id == batch_id, Job.item >= first, Image.position == 0)
    waiting = sa.select(BatchFile.item, BatchFile.sha256).where(BatchFile.batch_id == batch_id, BatchFile.item >= first)
    return {row.item: row.sha256 for row in session.execute(of_jobs.union_all(waiting))}


def cancel(database: Database, tenant_id: str, batch_id: str, actor: str) -> None:
    """Withdraw what has not ended, and take nothing more in. NotFound for another tenant's, Conflict if complete.

    In two transactions: jobs that were being written during the first are seen by the second, and no more can come.
    """
    with database.transaction() as session:
        states.cancel_batch(session, tenant_id, batch_id)
        session.add(AuditEntry(tenant_id=tenant_id, actor=actor, action="batch.cancel", subject=batch_id))
    with database.transaction() as session:
        states.cancel_batch(session, tenant_id, batch_id)
        states.close_batch(session, batch_id)
