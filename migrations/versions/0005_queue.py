"""The queue at a million jobs: rules that cost little per row, lines without what waits for a later time, lean events.

Workers of the revision before may go on beside it; delivery workers may not: they would send events without a body.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# The rule stands in the triggers' conditions: a function is called for a row that breaks it, and for no other.
GUARD = """
DROP TRIGGER jobs_guard ON jobs;
DROP FUNCTION jobs_guard();
CREATE FUNCTION jobs_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        RAISE EXCEPTION 'job % must begin as queued, not %', NEW.id, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER jobs_begin BEFORE INSERT ON jobs FOR EACH ROW
    WHEN (NEW.state <> 'queued') EXECUTE FUNCTION jobs_refuse();
CREATE TRIGGER jobs_guard BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NOT (
    NEW.state = OLD.state AND OLD.state IN ('queued', 'running')
    OR OLD.state = 'queued' AND NEW.state IN ('running', 'failed', 'cancelled', 'quarantined')
    OR OLD.state = 'running' AND NEW.state <> 'running'
)) EXECUTE FUNCTION jobs_refuse();
"""

# The state comes first, then its result: so the result can be checked at once, all rows of a statement together.
# That a job which succeeded has one is known at the end of the transaction only: that trigger stays deferred.
ONE_RESULT = """
DROP TRIGGER results_state_check ON results;
CREATE OR REPLACE FUNCTION results_state_check() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stray text;
BEGIN
    SELECT r.job_id INTO stray FROM written r JOIN jobs j ON j.id = r.job_id WHERE j.state <> 'succeeded' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % has a result and did not succeed', stray USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER results_state_check AFTER INSERT ON results REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION results_state_check();
"""

# One update per batch and statement, in the order of batch ids, so that two workers cannot wait for each other.
# NO KEY: a job's foreign key holds its batch's row; waiting for that one, two transactions would wait for each other.
COUNTS = """
CREATE OR REPLACE FUNCTION batches_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM after WHERE batch_id IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        PERFORM FROM batches WHERE id IN (SELECT batch_id FROM after) ORDER BY id FOR NO KEY UPDATE;
        UPDATE batches b SET queued = b.queued + d.n
        FROM (SELECT batch_id, count(*) AS n FROM after WHERE batch_id IS NOT NULL GROUP BY batch_id) d
        WHERE b.id = d.batch_id;
        RETURN NULL;
    END IF;
    PERFORM FROM batches WHERE id IN (
        SELECT a.batch_id FROM after a JOIN before o USING (id) WHERE a.state <> o.state
    ) ORDER BY id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE batches b SET
        queued = b.queued + d.queued, running = b.running + d.running, succeeded = b.succeeded + d.succeeded,
        failed = b.failed + d.failed, cancelled = b.cancelled + d.cancelled,
        quarantined = b.quarantined + d.quarantined, started_at = coalesce(b.started_at, d.started_at)
    FROM (
        SELECT batch_id, min(started_at) AS started_at,
            coalesce(sum(sign) FILTER (WHERE state = 'queued'), 0) AS queued,
            coalesce(sum(sign) FILTER (WHERE state = 'running'), 0) AS running,
            coalesce(sum(sign) FILTER (WHERE state = 'succeeded'), 0) AS succeeded,
            coalesce(sum(sign) FILTER (WHERE state = 'failed'), 0) AS failed,
            coalesce(sum(sign) FILTER (WHERE state = 'cancelled'), 0) AS cancelled,
            coalesce(sum(sign) FILTER (WHERE state = 'quarantined'), 0) AS quarantined
        FROM (
            SELECT batch_id, state, started_at, 1 AS sign FROM after
            UNION ALL SELECT batch_id, state, NULL, -1 FROM before
        ) moves
        WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) d WHERE b.id = d.batch_id;
    RETURN NULL;
END $$;
"""


# What was claimed stays at the head of its line until it is vacuumed away, and every claim steps over it.
VACUUM = """
ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE deliveries SET (autovacuum_vacuum_scale_factor = 0.01);
"""


def upgrade() -> None:
    for statement in (GUARD, ONE_RESULT, COUNTS, VACUUM):
        op.execute(statement)
    _lines()
    _events()


def _lines() -> None:
    op.drop_index("ix_jobs_queued", "jobs")
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["tenant_id", "rank", "queued_at", "id"],
        postgresql_where=sa.text("state = 'queued' AND not_before IS NULL"),
    )
    op.create_index(
        "ix_jobs_delayed",
        "jobs",
        ["not_before"],
        postgresql_where=sa.text("state = 'queued' AND not_before IS NOT NULL"),
    )


def _events() -> None:
    op.alter_column("events", "payload", nullable=True)
    op.create_check_constraint(
        op.f("ck_events_told_of_something"), "events", "num_nonnulls(payload, job_id, batch_id) > 0"
    )
    op.alter_column("deliveries", "next_attempt_at", server_default=sa.text("now()"))
