"""A worker of revision 0007, as far as PostgreSQL sees one: its statements, recorded when it was the newest.

A clone need not have the history that the code of then could be taken from, and an upgrade test that skips is none; so
what that worker says to the database is kept here, and nothing here is changed with the code. Once no worker of this
revision may run any more, the next one's statements take its place, and what only these needed may be dropped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

REVISION = "0007"

SIGN_ON = sa.text("""
    INSERT INTO workers (name, queue, bundle_sha256, bundle_problem) VALUES ('old', 'classify', :bundle, NULL)
    ON CONFLICT ON CONSTRAINT pk_workers DO UPDATE SET bundle_sha256 = :bundle, bundle_problem = NULL, seen_at = now()
""")
NEXT = sa.text("""
    WITH heads AS (
        SELECT j.* FROM tenants t CROSS JOIN LATERAL generate_series(0, 2) ranks(rank) CROSS JOIN LATERAL (
            SELECT id, tenant_id, rank, queued_at, expires_at FROM jobs
            WHERE state = 'queued' AND not_before IS NULL AND tenant_id = t.id AND rank = ranks.rank
            ORDER BY queued_at, id LIMIT 64
        ) j
        UNION ALL (
            SELECT id, tenant_id, rank, queued_at, expires_at FROM jobs
            WHERE state = 'queued' AND not_before <= now() AND rank <= 2 ORDER BY not_before LIMIT 64
        )
    ), classes AS (
        SELECT id, tenant_id, queued_at,
            CASE WHEN rank = 2 AND queued_at < now() - interval '30 minutes' THEN 1 ELSE rank END AS class
        FROM heads WHERE expires_at IS NULL OR expires_at > now()
    ), turns AS (
        SELECT id, class, row_number() OVER (PARTITION BY tenant_id, class ORDER BY queued_at, id) AS turn,
            random() AS lot
        FROM classes ORDER BY class, turn, lot LIMIT 64
    )
    SELECT j.id, j.alone, turns.class = 0 AS stat, s.image_count
    FROM turns JOIN jobs j USING (id) JOIN studies s ON s.id = j.study_id
    WHERE j.state = 'queued' ORDER BY turns.class, turns.turn, turns.lot LIMIT :many FOR UPDATE OF j SKIP LOCKED
""")
CLAIM = sa.text("""
    UPDATE jobs j SET state = 'running', started_at = now(), worker = 'old',
        lease_token = gen_random_uuid(), lease_until = now() + interval '30 seconds'
    FROM studies s, set_config('synchronous_commit', 'off', true) WHERE j.id = ANY (:ids) AND s.id = j.study_id
    RETURNING j.id, j.lease_token AS token, j.tenant_id, j.classifier, j.force, j.alone, j.rank = 0 AS stat, j.study_id,
        s.modality, s.content_sha256, CAST(extract(epoch FROM now() - j.queued_at) AS float) AS waited
""")
IMAGES = sa.text("""
    SELECT study_id, id, file_index, frame, object_key, sha256, problem FROM images
    WHERE study_id = ANY (:studies) ORDER BY study_id, position
""")
HELD = sa.text(
    "SELECT id FROM jobs WHERE id = :id AND lease_token = :token AND state = 'running' FOR UPDATE SKIP LOCKED"
)
BEAT = sa.text("""
    UPDATE jobs SET lease_until = now() + interval '30 seconds' WHERE id = ANY (:ids)
    RETURNING id, tenant_id, batch_id, state
""")
RELEASE = sa.text("""
    UPDATE jobs SET state = 'queued', lease_token = NULL, lease_until = NULL, worker = NULL WHERE id = ANY (:ids)
    RETURNING id, tenant_id, batch_id, state
""")
FINISH = sa.text("""
    WITH ends AS (
        SELECT j.id, e.error, e.transient, e.transient AND j.error_attempts + 1 < 5 AS again
        FROM json_to_recordset(CAST(:ends AS json)) AS e(id text, token text, error jsonb, transient boolean)
        JOIN jobs j ON j.id = e.id AND j.lease_token = e.token AND j.state = 'running'
        ORDER BY j.id FOR UPDATE OF j
    )
    UPDATE jobs j SET
        state = CASE WHEN again THEN 'queued' WHEN ends.error IS NULL THEN 'succeeded' ELSE 'failed' END,
        error = CASE WHEN NOT again THEN ends.error END,
        finished_at = CASE WHEN NOT again THEN now() END,
        error_attempts = error_attempts + CAST(transient AS int),
        not_before = CASE WHEN again THEN
            now() + make_interval(secs => 2 * power(2, error_attempts) * (0.8 + 0.4 * random())) ELSE not_before END,
        lease_token = NULL, lease_until = NULL, worker = NULL
    FROM ends WHERE j.id = ends.id RETURNING j.id, j.tenant_id, j.batch_id, j.state
""")
RESULT = sa.text("""
    INSERT INTO results (job_id, tenant_id, bundle_sha256, images, timings, outcome, reason, detail, prediction,
        probabilities, corrected_modality, review_reasons, second_opinion, reused_from)
    SELECT job_id, tenant_id, bundle_sha256, images, timings, outcome, reason, detail, prediction, probabilities,
        corrected_modality, review_reasons, second_opinion, reused_from
    FROM json_populate_recordset(NULL::results, CAST(:results AS json))
""")
EMIT = sa.text("""
    WITH told AS (
        INSERT INTO events (id, tenant_id, type, job_id, batch_id)
        SELECT id, tenant_id, type, job_id, batch_id
        FROM json_populate_recordset(NULL::events, CAST(:happenings AS json))
        WHERE tenant_id IN (SELECT tenant_id FROM webhook_endpoints) RETURNING id, tenant_id, type
    ), sent AS (
        INSERT INTO deliveries (id, tenant_id, event_id, endpoint_id, state)
        SELECT 'dlv_' || substr(t.id, 5, 12) || left(md5(t.id || w.id), 20), t.tenant_id, t.id, w.id, 'pending'
        FROM told t JOIN webhook_endpoints w ON w.tenant_id = t.tenant_id
        WHERE w.enabled AND (t.type = ANY (w.events) OR '*' = ANY (w.events)) RETURNING id
    )
    SELECT count(*) FROM sent
""")
COMPLETE = sa.text("""
    UPDATE batches SET completed_at = now() WHERE id = ANY (:ids) AND completed_at IS NULL
    AND received_at IS NOT NULL AND queued + running = 0 RETURNING id, tenant_id
""")
DISABLE = sa.text("UPDATE webhook_endpoints SET enabled = false, disabled_reason = :reason WHERE id = :id")


@dataclass(frozen=True)
class Held:
    """A job on lease."""

    id: str
    token: str
    images: int


class PreviousWorker:
    """Claims, beats, gives back and finishes as its code did, each in a transaction."""

    def __init__(self, engine: sa.Engine, bundle_sha256: str) -> None:
        self._engine, self._bundle = engine, bundle_sha256

    def sign_on(self) -> None:
        """Report for work."""
        with self._engine.begin() as connection:
            connection.execute(SIGN_ON, {"bundle": self._bundle})

    def claim(self, many: int) -> list[Held]:
        """Take jobs, with their images."""
        with self._engine.begin() as connection:
            found = [row.id for row in connection.execute(NEXT, {"many": many})]
            rows = connection.execute(CLAIM, {"ids": found}).all()
            images = connection.execute(IMAGES, {"studies": [row.study_id for row in rows]}).all()
        return [Held(row.id, row.token, sum(image.study_id == row.study_id for image in images)) for row in rows]

    def beat(self, held: Held) -> bool:
        """Extend a lease; False when it is lost."""
        with self._engine.begin() as connection:
            ids = list(connection.scalars(HELD, {"id": held.id, "token": held.token}))
            connection.execute(BEAT, {"ids": ids})
        return bool(ids)

    def release(self, held: Held) -> None:
        """Give a job back."""
        with self._engine.begin() as connection:
            ids = list(connection.scalars(HELD, {"id": held.id, "token": held.token}))
            connection.execute(RELEASE, {"ids": ids})

    def finish(self, held: Held, message: str, error: dict[str, Any] | None = None, *, transient: bool = False) -> bool:
        """End a job, with all that its end brings; False when the lease is lost. `message` is the event's id."""
        end = {"id": held.id, "token": held.token, "error": error, "transient": transient}
        with self._engine.begin() as connection:
            ended = connection.execute(FINISH, {"ends": json.dumps([end])}).all()
            for row in ended:
                if row.state == "succeeded":
                    connection.execute(RESULT, {"results": json.dumps([self._result(row.id, row.tenant_id)])})
                if row.state in {"succeeded", "failed"}:
                    _tell(connection, message, row.tenant_id, f"job.{row.state}", job_id=row.id)
                    for batch in connection.execute(COMPLETE, {"ids": [row.batch_id]}).all():
                        _tell(connection, f"{message}b", batch.tenant_id, "batch.completed", batch_id=batch.id)
        return bool(ended)

    def disable(self, endpoint_id: str) -> None:
        """Switch an endpoint off whose receiver has gone."""
        with self._engine.begin() as connection:
            connection.execute(DISABLE, {"id": endpoint_id, "reason": "gone"})

    def _result(self, job_id: str, tenant_id: str) -> dict[str, Any]:
        nothing = dict.fromkeys(["reason", "detail", "corrected_modality", "second_opinion", "reused_from"])
        return nothing | {
            "job_id": job_id,
            "tenant_id": tenant_id,
            "bundle_sha256": self._bundle,
            "images": [],
            "timings": {"total": 0.1},
            "outcome": "answered",
            "prediction": "not_covid19",
            "probabilities": {"covid19": 0.25, "not_covid19": 0.75},
            "review_reasons": [],
        }


def _tell(connection: sa.Connection, message: str, tenant_id: str, kind: str, **about: str) -> None:
    happening = {"id": message, "tenant_id": tenant_id, "type": kind, "job_id": None, "batch_id": None} | about
    connection.execute(EMIT, {"happenings": json.dumps([happening])})
