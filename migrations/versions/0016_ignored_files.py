"""A batch counts and names the files of its archive that became no item."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("batches", sa.Column("ignored", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "batches",
        sa.Column("ignored_names", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
