"""The two statements that workers wait for: claims, and the ends of a batch. shared/jobs/states.py alone runs them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

# The disk is not waited for: a claim that a crash of the server loses leaves its job queued.
CLAIM = sa.text("""
    UPDATE jobs j SET state = 'running', started_at = now(), worker = :worker,
        lease_token = gen_random_uuid(), lease_until = now() + CAST(:lease AS interval)
    FROM studies s, set_config('synchronous_commit', 'off', true) WHERE j.id = ANY (:ids) AND s.id = j.study_id
    RETURNING j.id, j.lease_token AS token, j.tenant_id, j.classifier, j.force, j.alone AS isolated, j.rank = 0 AS stat,
        j.study_id, s.modality, s.content_sha256, CAST(extract(epoch FROM now() - j.queued_at) AS float) AS waited
""")
# Row by row: one whose lease was lost is not among those that end, and the others are not the worse for it.
FINISH = sa.text("""
    WITH ends AS (
        SELECT j.id, e.error, e.transient, e.transient AND j.error_attempts + 1 < :max_attempts AS again
        FROM json_to_recordset(:ends) AS e(id text, token text, error jsonb, transient boolean)
        JOIN jobs j ON j.id = e.id AND j.lease_token = e.token AND j.state = 'running'
        ORDER BY j.id FOR UPDATE OF j
    )
    UPDATE jobs j SET
        state = CASE WHEN again THEN 'queued' WHEN ends.error IS NULL THEN 'succeeded' ELSE 'failed' END,
        error = CASE WHEN NOT again THEN ends.error END,
        finished_at = CASE WHEN NOT again THEN now() END,
        error_attempts = error_attempts + CAST(transient AS int),
        not_before = CASE WHEN again THEN
            now() + make_interval(secs => :base_seconds * power(2, error_attempts) * (0.8 + 0.4 * random()))
            ELSE not_before END,
        lease_token = NULL, lease_until = NULL, worker = NULL
    FROM ends WHERE j.id = ends.id RETURNING j.id, j.tenant_id, j.batch_id, j.state
""").bindparams(sa.bindparam("ends", type_=JSON))
