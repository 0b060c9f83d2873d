"""What a batch needs to be taken in piece by piece: who does it, how far it is, and files that wait to be grouped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for name in ("expired", "next_item"):
        op.add_column("batches", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE batches SET next_item = total")
    op.add_column("batches", sa.Column("receiver", sa.Text(), nullable=True))
    op.add_column(
        "batches",
        sa.Column("progress_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.create_table(
        "batch_files",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=True),
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("info", postgresql.JSONB(), nullable=True),
        sa.Column("problem", postgresql.JSONB(), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_files_batch_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batch_files_tenant_id")),
        sa.PrimaryKeyConstraint("batch_id", "item", name=op.f("pk_batch_files")),
        sa.UniqueConstraint("object_key", name=op.f("uq_batch_files_object_key")),
    )
