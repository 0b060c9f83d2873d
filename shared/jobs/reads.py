"""Jobs read for polls, the most frequent request, and for long lists: statements made once, and no tracked objects.

The ORM needs several times the processor time for the same row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, cast

import sqlalchemy as sa

from shared.db.tables import Base, Job, JobState, ModelBundle, Result, Study


def _columns(entity: type[Base], *keys: str) -> list[sa.Label[Any]]:
    """The entity's attributes, all unless named, labelled as `<table>.<attribute>`."""
    attributes = sa.inspect(entity).column_attrs
    return [
        attribute.columns[0].label(f"{entity.__tablename__}.{attribute.key}")
        for attribute in attributes
        if not keys or attribute.key in keys
    ]


#: What an envelope says of a job, and what its place in line is asked with; not what only workers look at.
_SEEN = (
    "id", "tenant_id", "study_id", "batch_id", "classifier", "priority", "rank", "external_id", "item", "member",
    "custom_id", "extra", "expires_at", "state", "error", "error_attempts", "crash_attempts", "created_at", "queued_at",
    "started_at", "finished_at",
)  # fmt: skip
_JOB = [*_columns(Job, *_SEEN), *_columns(Study, "modality", "image_count", "burned_in")]
_ANSWER = [*_columns(Result), *_columns(ModelBundle, "sha256", "name", "version")]
_OF_RESULT = Result.__table__.join(ModelBundle.__table__)
_ONE = (
    sa.select(*_JOB)
    .join(Study, Study.id == Job.study_id)
    .where(Job.id == sa.bindparam("job_id"), Job.tenant_id == sa.bindparam("tenant_id"))
)
# Of a job that has one: most polls are of jobs that do not, and its columns cost as much as all others.
_ITS_ANSWER = sa.select(*_ANSWER).select_from(_OF_RESULT).where(Result.job_id == sa.bindparam("job_id"))
# The page first, and only then what belongs to it: of a batch that is younger than the planner's statistics, the rest
# would be joined to its last item for each page.
_PAGE = (
    sa.select(Job.id)
    .where(Job.batch_id == sa.bindparam("batch_id"), Job.item > sa.bindparam("after"))
    .order_by(Job.item)
    .limit(sa.bindparam("limit"))
    .subquery()
)
_OF_BATCH = (
    sa.select(*_JOB, *_ANSWER)
    .select_from(
        _PAGE.join(Job.__table__, Job.id == _PAGE.c.id)
        .join(Study.__table__, Study.id == Job.study_id)
        .outerjoin(_OF_RESULT, Result.job_id == Job.id)
    )
    .order_by(Job.item)
)


def read(connection: sa.Connection, tenant_id: str, job_id: str) -> Job | None:
    """The tenant's job with its study, its result and the result's bundle; for reading only."""
    row = connection.execute(_ONE, {"job_id": job_id, "tenant_id": tenant_id}).first()
    if row is None:
        return None
    job, study = _split(row, _JOB_PARTS)
    if job.state is not JobState.SUCCEEDED:
        return _whole(job, study, None, None)
    answer = connection.execute(_ITS_ANSWER, {"job_id": job_id}).first()
    # A job that succeeded has a result: without one, its study was deleted between the two looks.
    return None if answer is None else _whole(job, study, *_split(answer, _ANSWER_PARTS))


def of_batch(connection: sa.Connection, batch_id: str, after: int, limit: int) -> list[Job]:
    """A batch's jobs in the order of their items, as `read` gives them: at most so many after item `after`."""
    rows = connection.execute(_OF_BATCH, {"batch_id": batch_id, "after": after, "limit": limit})
    return [_whole(*_split(row, [*_JOB_PARTS, *_ANSWER_PARTS])) for row in rows]


def _names(columns: Sequence[sa.Label[Any]]) -> list[list[str]]:
    """The attributes of each table, in the order of the columns."""
    pairs = (column.name.split(".") for column in columns)
    return [[name for _, name in group] for _, group in groupby(pairs, key=itemgetter(0))]


_JOB_PARTS, _ANSWER_PARTS = _names(_JOB), _names(_ANSWER)


def _split(row: sa.Row[Any], parts: Sequence[list[str]]) -> list[SimpleNamespace]:
    """A row as one object per table."""
    values = iter(row)
    return [SimpleNamespace(**{name: next(values) for name in names}) for names in parts]


def _whole(
    job: SimpleNamespace, study: SimpleNamespace, result: SimpleNamespace | None, bundle: SimpleNamespace | None
) -> Job:
    job.study = study
    job.result = None
    if result is not None and result.job_id is not None:
        job.result, result.bundle = result, bundle
    # It has the attributes that an envelope is made of, and nothing else of the entity.
    return cast(Job, job)
