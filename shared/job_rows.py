"""Jobs read for polls, the most frequent request, and for long lists: statements made once, and no tracked objects.

The ORM needs several times the processor time for the same row.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import sqlalchemy as sa

from shared.models import Base, Job, ModelBundle, Result, Study


def _columns(entity: type[Base], *keys: str) -> list[sa.Label[Any]]:
    """The entity's attributes, all unless named, labelled as `<table>.<attribute>`."""
    attributes = sa.inspect(entity).column_attrs
    return [
        attribute.columns[0].label(f"{entity.__tablename__}.{attribute.key}")
        for attribute in attributes
        if not keys or attribute.key in keys
    ]


_JOB, _STUDY = _columns(Job), _columns(Study, "modality", "image_count")
_RESULT, _BUNDLE = _columns(Result), _columns(ModelBundle, "sha256", "name", "version")
_PARTS = [len(_JOB), len(_STUDY), len(_RESULT), len(_BUNDLE)]
_NAMES = [column.name.partition(".")[2] for column in (*_JOB, *_STUDY, *_RESULT, *_BUNDLE)]
_WHOLE = (
    sa.select(*_JOB, *_STUDY, *_RESULT, *_BUNDLE)
    .select_from(Job)
    .join(Study, Study.id == Job.study_id)
    .outerjoin(Result, Result.job_id == Job.id)
    .outerjoin(ModelBundle, ModelBundle.sha256 == Result.bundle_sha256)
)
_ONE = _WHOLE.where(Job.id == sa.bindparam("job_id"), Job.tenant_id == sa.bindparam("tenant_id"))
_OF_BATCH = (
    _WHOLE.where(Job.batch_id == sa.bindparam("batch_id"), Job.item > sa.bindparam("after"))
    .order_by(Job.item)
    .limit(sa.bindparam("limit"))
)


def read(connection: sa.Connection, tenant_id: str, job_id: str) -> Job | None:
    """The tenant's job with its study, its result and the result's bundle; for reading only."""
    row = connection.execute(_ONE, {"job_id": job_id, "tenant_id": tenant_id}).first()
    return None if row is None else _whole(row)


def of_batch(connection: sa.Connection, batch_id: str, after: int, limit: int) -> list[Job]:
    """A batch's jobs in the order of their items, as `read` gives them: at most so many after item `after`."""
    rows = connection.execute(_OF_BATCH, {"batch_id": batch_id, "after": after, "limit": limit})
    return [_whole(row) for row in rows]


def _whole(row: sa.Row[Any]) -> Job:
    job, study, result, bundle = _split(row)
    job.study = study
    job.result = None if result.job_id is None else result
    result.bundle = bundle
    # It has the attributes that an envelope is made of, and nothing else of the entity.
    return cast(Job, job)


def _split(row: sa.Row[Any]) -> list[SimpleNamespace]:
    start, parts = 0, []
    for length in _PARTS:
        end = start + length
        parts.append(SimpleNamespace(**dict(zip(_NAMES[start:end], row[start:end], strict=True))))
        start = end
    return parts
