"""The database holds the rules of job states, and counts the jobs of a batch.

The rules stand in shared/jobs/states.py; here they hold against every other writer too.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

GUARD = """
CREATE FUNCTION jobs_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' THEN
            RAISE EXCEPTION 'job % must begin as queued, not %', NEW.id, NEW.state USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NOT (
        NEW.state = OLD.state AND OLD.state IN ('queued', 'running')
        OR OLD.state = 'queued' AND NEW.state IN ('running', 'cancelled', 'quarantined')
        OR OLD.state = 'running' AND NEW.state <> 'running'
    ) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER jobs_guard BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_guard();
"""

# Deferred: within a transaction, the state and its result may come in either order.
ONE_RESULT = """
CREATE FUNCTION jobs_result_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM results WHERE job_id = NEW.id) THEN
        RAISE EXCEPTION 'job % succeeded without a result', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER jobs_result_check AFTER UPDATE OF state ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state = 'succeeded') EXECUTE FUNCTION jobs_result_check();
CREATE FUNCTION results_state_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM jobs WHERE id = NEW.job_id AND state = 'succeeded') THEN
        RAISE EXCEPTION 'job % has a result and did not succeed', NEW.job_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER results_state_check AFTER INSERT ON results DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION results_state_check();
"""

# One update per batch and statement, in the order of batch ids, so that two workers cannot wait for each other.
COUNTS = """
CREATE FUNCTION batches_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE batches b SET queued = b.queued + d.n
        FROM (SELECT batch_id, count(*) AS n FROM after WHERE batch_id IS NOT NULL GROUP BY batch_id) d
        WHERE b.id = d.batch_id;
        RETURN NULL;
    END IF;
    PERFORM 1 FROM batches WHERE id IN (
        SELECT a.batch_id FROM after a JOIN before o USING (id) WHERE a.state <> o.state
    ) ORDER BY id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE batches b SET
        queued = b.queued + d.queued, running = b.running + d.running, succeeded = b.succeeded + d.succeeded,
        failed = b.failed + d.failed, cancelled = b.cancelled + d.cancelled, quarantined = b.quarantined + d.quarantined
    FROM (
        SELECT batch_id,
            sum(sign) FILTER (WHERE state = 'queued') AS queued,
            sum(sign) FILTER (WHERE state = 'running') AS running,
            sum(sign) FILTER (WHERE state = 'succeeded') AS succeeded,
            sum(sign) FILTER (WHERE state = 'failed') AS failed,
            sum(sign) FILTER (WHERE state = 'cancelled') AS cancelled,
            sum(sign) FILTER (WHERE state = 'quarantined') AS quarantined
        FROM (SELECT batch_id, state, 1 AS sign FROM after UNION ALL SELECT batch_id, state, -1 FROM before) moves
        WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) raw, LATERAL (
        SELECT raw.batch_id, coalesce(raw.queued, 0) AS queued, coalesce(raw.running, 0) AS running,
            coalesce(raw.succeeded, 0) AS succeeded, coalesce(raw.failed, 0) AS failed,
            coalesce(raw.cancelled, 0) AS cancelled, coalesce(raw.quarantined, 0) AS quarantined
    ) d WHERE b.id = d.batch_id;
    RETURN NULL;
END $$;
CREATE TRIGGER batches_count_insert AFTER INSERT ON jobs REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION batches_count();
CREATE TRIGGER batches_count_update AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION batches_count();
"""


def upgrade() -> None:
    for statement in (GUARD, ONE_RESULT, COUNTS):
        op.execute(statement)
