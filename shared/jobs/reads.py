"""Jobs read for polls, the most frequent request, and for long lists: statements made once, and no tracked objects.

The ORM needs several times the processor time for the same row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH

from shared.db.tables import Base, Job, JobState, ModelBundle, Result, Study

#: Most images whose results are read at once, beside those of one more job: a few megabytes.
MOST_IMAGES = 4_000


def _columns(entity: type[Base], *keys: str) -> list[sa.Label[Any]]:
    """Return the entity's attributes, all unless named, labelled as `<table>.<attribute>`."""
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
_BUNDLE = _columns(ModelBundle, "sha256", "name", "version")
_ANSWER = [*_columns(Result), sa.null().label("results.answered"), *_BUNDLE]
_OF_RESULT = Result.__table__.join(ModelBundle.__table__)
_ONE = (
    sa.select(*_JOB)
    .join(Study, Study.id == Job.study_id)
    .where(Job.id == sa.bindparam("job_id"), Job.tenant_id == sa.bindparam("tenant_id"))
)
# Of a job that has one: most polls are of jobs that do not, and its columns cost as much as all others.
_ITS_ANSWER = sa.select(*_ANSWER).select_from(_OF_RESULT).where(Result.job_id == sa.bindparam("job_id"))
# Without the images' own results, which are as long as a study is large. How many were answered says how their answers
# were combined.
_ANSWERED = sa.case(
    (Result.prediction.is_(None), 0),
    (Study.image_count == 1, 1),
    else_=sa.func.jsonb_array_length(
        sa.func.jsonb_path_query_array(Result.images, sa.cast("$[*] ? (@.prediction != null)", JSONPATH))
    ),
)
_SUMMARY = [
    *_columns(Result, *(column.key for column in sa.inspect(Result).column_attrs if column.key != "images")),
    sa.cast(sa.literal("[]"), JSONB).label("results.images"),
    _ANSWERED.label("results.answered"),
    *_BUNDLE,
]
# The page first, and only then what belongs to it: of a batch that is younger than the planner's statistics, the rest
# would be joined to its last item for each page.
_PAGE = (
    sa.select(Job.id, Job.item, Job.study_id)
    .where(Job.batch_id == sa.bindparam("batch_id"), Job.item > sa.bindparam("after"))
    .order_by(Job.item)
    .limit(sa.bindparam("limit"))
    .subquery()
)
_SIZED = (
    sa.select(
        _PAGE.c.id, (sa.func.sum(Study.image_count).over(order_by=_PAGE.c.item) - Study.image_count).label("before")
    )
    .join(Study, Study.id == _PAGE.c.study_id)
    .subquery()
)


def _of_page(page: sa.FromClause, answer: Sequence[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    """Return the jobs of a page of ids, with their studies and results."""
    jobs = page.join(Job.__table__, Job.id == page.c.id).join(Study.__table__, Study.id == Job.study_id)
    return sa.select(*_JOB, *answer).select_from(jobs.outerjoin(_OF_RESULT, Result.job_id == Job.id))


_OF_BATCH = _of_page(_SIZED, _ANSWER).where(_SIZED.c.before < MOST_IMAGES).order_by(Job.item)
_OF_BATCH_SUMMARY = _of_page(_PAGE, _SUMMARY).order_by(Job.item)
_LISTED = (
    sa.func.unnest(sa.bindparam("ids", type_=sa.ARRAY(sa.Text))).table_valued(sa.column("id", sa.Text)).render_derived()
)
_OF_LIST, _OF_LIST_SUMMARY = (
    _of_page(_LISTED, answer).where(Job.tenant_id == sa.bindparam("tenant_id")).order_by(Job.id.desc())
    for answer in (_ANSWER, _SUMMARY)
)


def read(connection: sa.Connection, tenant_id: str, job_id: str) -> Job | None:
    """Return the tenant's job with its study, its result and the result's bundle; for reading only."""
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
    """Return a batch's jobs in the order of their items, as `read` gives them: at most so many after item `after`.

    Fewer, but one at least, where they have very many images.
    """
    rows = connection.execute(_OF_BATCH, {"batch_id": batch_id, "after": after, "limit": limit})
    return [_whole(*_split(row, [*_JOB_PARTS, *_ANSWER_PARTS])) for row in rows]


def summaries_of_batch(connection: sa.Connection, batch_id: str, after: int, limit: int) -> list[Job]:
    """Return the same, all of them, with results that lack their images."""
    rows = connection.execute(_OF_BATCH_SUMMARY, {"batch_id": batch_id, "after": after, "limit": limit})
    return [_whole(*_split(row, [*_JOB_PARTS, *_SUMMARY_PARTS])) for row in rows]


def of_ids(connection: sa.Connection, tenant_id: str, ids: Sequence[str]) -> list[Job]:
    """Return the tenant's jobs of these ids, newest first, as `read` gives them."""
    rows = connection.execute(_OF_LIST, {"tenant_id": tenant_id, "ids": list(ids)})
    return _present(_whole(*_split(row, [*_JOB_PARTS, *_ANSWER_PARTS])) for row in rows)


def summaries(connection: sa.Connection, tenant_id: str, ids: Sequence[str]) -> list[Job]:
    """Return the same with results that lack their images."""
    rows = connection.execute(_OF_LIST_SUMMARY, {"tenant_id": tenant_id, "ids": list(ids)})
    return _present(_whole(*_split(row, [*_JOB_PARTS, *_SUMMARY_PARTS])) for row in rows)


def _present(jobs: Iterable[Job]) -> list[Job]:
    """Leave out those whose study was deleted meanwhile: a job that succeeded has a result."""
    return [job for job in jobs if job.result is not None or job.state is not JobState.SUCCEEDED]


def _names(columns: Sequence[sa.Label[Any]]) -> list[list[str]]:
    """Return the attributes of each table, in the order of the columns."""
    pairs = (column.name.split(".") for column in columns)
    return [[name for _, name in group] for _, group in groupby(pairs, key=itemgetter(0))]


_JOB_PARTS, _ANSWER_PARTS, _SUMMARY_PARTS = _names(_JOB), _names(_ANSWER), _names(_SUMMARY)


def _split(row: sa.Row[Any], parts: Sequence[list[str]]) -> list[SimpleNamespace]:
    """Return a row as one object per table."""
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
