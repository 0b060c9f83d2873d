"""The engine that each worker runs, and why others do not answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("workers", sa.Column("engine", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("engine_reason", sa.Text(), nullable=True))
