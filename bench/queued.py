"""Jobs that wait, written straight into the bench's own database: a million would take an hour over HTTP."""

from __future__ import annotations

import psycopg
from psycopg.types.json import Jsonb

# One image a study, without an object: the null engine fetches none.
STUDIES = """
INSERT INTO studies (id, tenant_id, modality, image_count)
SELECT 'study_' || %(tag)s || lpad(n::text, 8, '0'), %(tenant)s, 'xray', 1 FROM generate_series(1, %(count)s) n
"""
IMAGES = """
INSERT INTO images (id, tenant_id, study_id, position, file_index, frame, object_key, sha256, size_bytes, media_type,
                    width, height)
SELECT 'image_' || %(tag)s || lpad(n::text, 8, '0'), %(tenant)s, 'study_' || %(tag)s || lpad(n::text, 8, '0'), 0, 0, 0,
       'bench/' || %(tag)s || n, md5(%(tag)s || n), 1000, 'image/jpeg', 224, 224
FROM generate_series(1, %(count)s) n
"""
JOBS = """
INSERT INTO jobs (id, tenant_id, study_id, batch_id, item, classifier, priority, rank, state)
SELECT 'job_' || %(tag)s || lpad(n::text, 8, '0'), %(tenant)s, 'study_' || %(tag)s || lpad(n::text, 8, '0'),
       %(batch)s, CASE WHEN %(batch)s::text IS NULL THEN NULL ELSE n - 1 END, 'binary', 'bulk', 2, 'queued'
FROM generate_series(1, %(count)s) n
"""
# Its counts are written as the trigger, which is switched off, would have left them.
BATCH = """
INSERT INTO batches (id, tenant_id, options, total, queued, received_at)
VALUES (%(batch)s, %(tenant)s, %(options)s, %(count)s, %(count)s, now())
"""
OPTIONS = {"classifier": "binary", "modality": "xray", "priority": "bulk", "group_by": "file", "force": False}


def fill(connection: psycopg.Connection, tenant_id: str, count: int, tag: str, *, batch: bool = False) -> str:
    """Queue bulk jobs of a tenant; `tag` sets their ids apart. With `batch`, they are one. Returns that batch's id."""
    values = {"tenant": tenant_id, "count": count, "tag": tag, "batch": f"batch_{tag}" if batch else None}
    with connection.transaction():
        # Keys and counts are right as they are written; checking a million of them row by row takes minutes.
        connection.execute("SET LOCAL session_replication_role = replica")
        if batch:
            connection.execute(BATCH, values | {"options": Jsonb(OPTIONS)})
        for statement in (STUDIES, IMAGES, JOBS):
            connection.execute(statement, values)
    return f"batch_{tag}"


def analyze(connection: psycopg.Connection) -> None:
    """Tell the planner now what it would find out within a minute."""
    connection.execute("ANALYZE studies, images, jobs")
