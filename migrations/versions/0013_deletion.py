"""Studies can be deleted: tombstones, batches that count what is left, and no keys that a deletion would search for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_level_security import allow, enable_row_level_security

revision = "0013"
down_revision = "0012"

# A batch counts the jobs that it has. What is deleted has ended before, so it is complete or not as it was.
UNCOUNT = """
CREATE FUNCTION batches_uncount() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM gone WHERE batch_id IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    PERFORM FROM batches WHERE id IN (SELECT batch_id FROM gone) ORDER BY id FOR NO KEY UPDATE;
    UPDATE batches b SET
        total = b.total - d.total, queued = b.queued - d.queued, running = b.running - d.running,
        succeeded = b.succeeded - d.succeeded, failed = b.failed - d.failed, cancelled = b.cancelled - d.cancelled,
        quarantined = b.quarantined - d.quarantined, expired = greatest(b.expired - d.expired, 0)
    FROM (
        SELECT batch_id, count(*) AS total,
            count(*) FILTER (WHERE state = 'queued') AS queued,
            count(*) FILTER (WHERE state = 'running') AS running,
            count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE state = 'quarantined') AS quarantined,
            count(*) FILTER (WHERE state = 'failed' AND error ->> 'type' = 'expired') AS expired
        FROM gone WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) d WHERE b.id = d.batch_id;
    RETURN NULL;
END $$;
CREATE TRIGGER batches_count_delete AFTER DELETE ON jobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION batches_uncount();
"""


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("object_keys", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_tombstones_tenant_id")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_tombstones")),
    )
    op.create_index(
        "ix_tombstones_pending", "tombstones", ["study_id"], postgresql_where=sa.text("cardinality(object_keys) > 0")
    )
    op.drop_constraint("fk_results_reused_from", "results", type_="foreignkey")
    op.drop_constraint("fk_artifacts_image_id", "artifacts", type_="foreignkey")
    op.create_index(
        "ix_results_reused_from",
        "results",
        ["reused_from"],
        postgresql_where=sa.text("reused_from IS NOT NULL"),
    )
    op.execute(UNCOUNT)
    enable_row_level_security("tombstones", "SELECT, INSERT, UPDATE")
    allow("results", "UPDATE")  # answers that were taken over from a job that is deleted
