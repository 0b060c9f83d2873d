"""Batches that arrive while they run, direct uploads, studies in pieces, deadlines, answers used again.

A batch's rejected items become rows of their own: a batch is read at every poll, and its row must stay small.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

# A job whose deadline passes while it waits fails without having run.
GUARD = """
CREATE OR REPLACE FUNCTION jobs_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' THEN
            RAISE EXCEPTION 'job % must begin as queued, not %', NEW.id, NEW.state USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NOT (
        NEW.state = OLD.state AND OLD.state IN ('queued', 'running')
        OR OLD.state = 'queued' AND NEW.state IN ('running', 'failed', 'cancelled', 'quarantined')
        OR OLD.state = 'running' AND NEW.state <> 'running'
    ) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
"""
REJECTIONS = """
INSERT INTO batch_rejections (batch_id, item, tenant_id, problem)
SELECT b.id, (entry->>'file')::int, b.tenant_id, entry->'problem'
FROM batches b CROSS JOIN LATERAL jsonb_array_elements(b.rejected) entry
"""


def upgrade() -> None:
    op.execute(GUARD)
    _studies()
    _batches()
    _uploads()
    _jobs()
    op.add_column("results", sa.Column("reused_from", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_results_reused_from"), "results", "jobs", ["reused_from"], ["id"])


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=32)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False)


def _studies() -> None:
    op.add_column("studies", sa.Column("content_sha256", sa.Text(), nullable=True))
    op.add_column("studies", _flag("open"))
    op.add_column("studies", sa.Column("expected_images", sa.Integer(), nullable=True))
    op.add_column("studies", sa.Column("quiet_seconds", sa.Float(), nullable=True))
    op.add_column("studies", _time("quiet_until"))
    op.add_column("studies", sa.Column("wanted", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False))
    op.create_index("ix_studies_tenant_id_content_sha256", "studies", ["tenant_id", "content_sha256"])
    op.create_index("ix_studies_quiet", "studies", ["quiet_until"], postgresql_where=sa.text("open"))


def _batches() -> None:
    op.create_table(
        "batch_rejections",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=True),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("problem", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_rejections_batch_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batch_rejections_tenant_id")),
        sa.PrimaryKeyConstraint("batch_id", "item", name=op.f("pk_batch_rejections")),
    )
    op.execute(REJECTIONS)
    # With its constraint, whose name the new column's takes.
    op.alter_column("batches", "rejected", new_column_name="rejected_items", nullable=True)
    op.add_column("batches", sa.Column("rejected", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE batches SET rejected = jsonb_array_length(rejected_items)")
    op.drop_column("batches", "rejected_items")
    op.alter_column("batches", "total", server_default="0")
    op.add_column("batches", sa.Column("options", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))
    for name in ("received_at", "started_at", "cancelled_at", "expires_at"):
        op.add_column("batches", _time(name))
    op.execute("UPDATE batches SET received_at = created_at")
    op.create_index("ix_batches_receiving", "batches", ["created_at"], postgresql_where=sa.text("received_at IS NULL"))


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("state", _enum("uploadstate", "pending", "complete", "used"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("info", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _time("completed_at"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_uploads_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("object_key", name=op.f("uq_uploads_object_key")),
    )
    op.create_index("ix_uploads_tenant_id_id", "uploads", ["tenant_id", "id"])
    op.create_index("ix_uploads_unused", "uploads", ["expires_at"], postgresql_where=sa.text("state <> 'used'"))


def _jobs() -> None:
    op.add_column("jobs", sa.Column("item", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("member", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("custom_id", sa.Text(), nullable=True))
    op.add_column("jobs", _flag("force"))
    op.add_column("jobs", _time("expires_at"))
    op.drop_index("ix_jobs_batch_id", "jobs")
    op.create_index(
        "uq_jobs_batch_id_item",
        "jobs",
        ["batch_id", "item"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_expires_at",
        "jobs",
        ["expires_at"],
        postgresql_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
    )
