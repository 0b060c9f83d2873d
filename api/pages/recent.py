"""What was sent lately: a row for each job that was sent by itself, and one for each batch, however large it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sqlalchemy as sa
from flask import Response, request
from sqlalchemy.orm import Session

from api.http.principal import Principal, principal
from api.http.services import services
from api.pages.files import StudyFiles, files_of
from api.pages.responses import conditional, tenant_name
from shared.db.tables import Batch, Job
from shared.errors import InvalidRequest
from shared.jobs import reads
from shared.jobs.batch_schemas import BatchEnvelope, batch_envelope
from shared.jobs.schemas import JobEnvelope, job_envelope
from shared.keys import Scope

RECENT = 20
#: What ids have in common after their prefix: a UUIDv7, which sorts by time.
CURSOR = re.compile(r"(?:job|bat)_([0-9a-f]{32})")


@dataclass(frozen=True)
class Row:
    """A job with its files, or a batch."""

    job: JobEnvelope | None = None
    files: StudyFiles | None = None
    batch: BatchEnvelope | None = None

    @property
    def id(self) -> str:
        return (self.job or self.batch).id  # type: ignore[union-attr]  # it is one of the two

    @property
    def ended(self) -> bool:
        return (self.job or self.batch).ended  # type: ignore[union-attr]  # the same


def show_recent() -> Response:
    """Show the newest rows and the form; `cursor`, the id of a row, continues the list. InvalidRequest for no id."""
    who = principal(Scope.JOBS_READ)
    cursor = request.args.get("cursor")
    with services().database.transaction() as session:
        found = _rows(session, who, _moment(cursor))
        tenant = tenant_name(session, who)
    rows = found[:RECENT]
    return conditional(
        "home.html",
        tenant=tenant,
        rows=rows,
        older=rows[-1].id if len(found) > RECENT else None,
        cursor=cursor,
        may_send=who.has(Scope.JOBS_WRITE),
        settled=all(row.ended for row in rows),
    )


def _moment(cursor: str | None) -> str | None:
    if not cursor:
        return None
    found = CURSOR.fullmatch(cursor)
    if found is None:
        message = "not the id of a job or batch"
        raise InvalidRequest(f"cursor is {message}", errors=[{"field": "cursor", "message": message}])
    return found[1]


def _rows(session: Session, who: Principal, before: str | None) -> list[Row]:
    """One more than are shown, if there are as many: newest first."""
    jobs = sa.select(Job.id).where(Job.tenant_id == who.tenant_id, Job.batch_id.is_(None))
    batches = sa.select(Batch).where(Batch.tenant_id == who.tenant_id)
    if before is not None:
        jobs, batches = jobs.where(Job.id < f"job_{before}"), batches.where(Batch.id < f"bat_{before}")
    ids = session.scalars(jobs.order_by(Job.id.desc()).limit(RECENT + 1)).all()
    single = reads.summaries(session.connection(), who.tenant_id, ids)
    files = files_of(session, {job.study_id for job in single})
    rows = [Row(job=job_envelope(job), files=files.get(job.study_id)) for job in single]
    newest = session.scalars(batches.order_by(Batch.id.desc()).limit(RECENT + 1))
    rows += [Row(batch=batch_envelope(batch)) for batch in newest]
    return sorted(rows, key=lambda row: row.id.partition("_")[2], reverse=True)[: RECENT + 1]
