"""A study keeps the names of its files; and the page's list, where a batch is one row, has its index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    # Null in the rows that are there, and in those that an API of the revision before goes on to write.
    op.add_column("studies", sa.Column("file_names", postgresql.ARRAY(sa.Text()), nullable=True))
    op.create_index(
        "ix_jobs_outside_batches", "jobs", ["tenant_id", "id"], postgresql_where=sa.text("batch_id IS NULL")
    )
