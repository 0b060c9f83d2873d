"""A batch: how far it is, what came of it by class, its items a page at a time, and what became no job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from flask import Response, request
from sqlalchemy.orm import Session

from api.batches.routes import find_batch
from api.http.auth import authenticate
from api.http.principal import principal
from api.http.services import services
from api.pages.files import StudyFiles, files_of
from api.pages.responses import conditional, tenant_name
from shared.db.tables import BatchRejection, Job, Result
from shared.errors import InvalidRequest
from shared.jobs import reads
from shared.jobs.batch_schemas import batch_envelope
from shared.jobs.schemas import JobEnvelope, job_envelope
from shared.keys import Scope

ITEMS = 50
#: More would be a page of their own; the file of errors has them all.
REJECTED = 50
#: Digits of an item's number: PostgreSQL's integer holds any of so many.
ITEM_DIGITS = 9


@dataclass(frozen=True)
class Item:
    """A job of the batch, with the item's own name and the files of its study."""

    number: int
    name: str | None
    job: JobEnvelope
    files: StudyFiles | None


@dataclass(frozen=True)
class Findings:
    """What came of the jobs that have a result, in counts."""

    by_class: Sequence[tuple[str, int]]
    not_classified: int
    needs_review: int


def show_batch(batch_id: str) -> Response:
    """One batch; `after`, the number of an item, continues the list of its jobs."""
    authenticate()
    who = principal(Scope.JOBS_READ)
    after = _after(request.args.get("after"))
    with services().database.transaction() as session:
        batch = batch_envelope(find_batch(session, who, batch_id))
        found = _items(session, batch_id, after)
        findings = _findings(session, batch_id)
        rejected = _rejected(session, batch_id) if batch.counts.rejected else []
        tenant = tenant_name(session, who)
    items = found[:ITEMS]
    return conditional(
        "batch.html",
        tenant=tenant,
        batch=batch,
        items=items,
        after=after,
        later=items[-1].number if len(found) > ITEMS else None,
        findings=findings,
        rejected=rejected,
        settled=batch.ended,
        may_send=who.has(Scope.JOBS_WRITE),
    )


def _after(given: str | None) -> int:
    if not given:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) <= ITEM_DIGITS):
        message = "not the number of an item"
        raise InvalidRequest(f"after is {message}", errors=[{"field": "after", "message": message}])
    return int(given)


def _items(session: Session, batch_id: str, after: int) -> list[Item]:
    """One more than are shown, if there are as many."""
    jobs = reads.summaries_of_batch(session.connection(), batch_id, after, ITEMS + 1)
    files = files_of(session, {job.study_id for job in jobs})
    return [
        Item(job.item or 0, job.custom_id or job.member, job_envelope(job), files.get(job.study_id)) for job in jobs
    ]


def _findings(session: Session, batch_id: str) -> Findings:
    looked_at = sa.func.cardinality(Result.review_reasons) > 0
    wanted = (
        sa.select(Result.prediction, looked_at, sa.func.count())
        .join(Job, Job.id == Result.job_id)
        .where(Job.batch_id == batch_id)
        .group_by(Result.prediction, looked_at)
    )
    classes: Counter[str] = Counter()
    without, review = 0, 0
    for prediction, needs_review, number in session.execute(wanted):
        review += number if needs_review else 0
        if prediction is None:
            without += number
        else:
            classes[prediction] += number
    return Findings(classes.most_common(), without, review)


def _rejected(session: Session, batch_id: str) -> Sequence[BatchRejection]:
    mine = sa.select(BatchRejection).where(BatchRejection.batch_id == batch_id)
    return session.scalars(mine.order_by(BatchRejection.item).limit(REJECTED)).all()
