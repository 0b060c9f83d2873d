"""What a result says beside its probabilities; heatmaps in the database; which bundle is active.

Safe beside workers of the revision before: what they write reads as an answer that needs no review.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _results()
    _artifacts()
    _models()


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=32)


def _results() -> None:
    outcome = _enum("resultoutcome", "answered", "rejected_input")
    op.add_column("results", sa.Column("outcome", outcome, server_default="answered", nullable=False))
    op.add_column("results", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column("results", sa.Column("detail", sa.Text(), nullable=True))
    op.add_column("results", sa.Column("corrected_modality", _enum("modality", "xray", "ct"), nullable=True))
    op.add_column(
        "results",
        sa.Column("review_reasons", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("results", sa.Column("second_opinion", postgresql.JSONB(), nullable=True))
    op.alter_column("results", "prediction", nullable=True)
    op.alter_column("results", "probabilities", nullable=True)
    op.create_check_constraint(
        op.f("ck_results_answer_or_reason"),
        "results",
        "CASE outcome WHEN 'answered' THEN reason IS NULL AND prediction IS NOT NULL"
        " AND probabilities IS NOT NULL ELSE reason IS NOT NULL AND prediction IS NULL"
        " AND probabilities IS NULL END",
    )


def _artifacts() -> None:
    # Nothing has ever written to the first shape of this table.
    op.drop_table("artifacts")
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("kind", _enum("artifactkind", "heatmap"), nullable=False),
        sa.Column("class_name", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_artifacts_image_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_artifacts_job_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_artifacts_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("job_id", "image_id", "kind", name=op.f("uq_artifacts_job_id_image_id_kind")),
    )


def _models() -> None:
    for column in ("active", "stored"):
        op.add_column("model_bundles", sa.Column(column, sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("model_bundles", sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "uq_model_bundles_active", "model_bundles", ["active"], unique=True, postgresql_where=sa.text("active")
    )
    op.add_column("workers", sa.Column("bundle_problem", sa.Text(), nullable=True))
