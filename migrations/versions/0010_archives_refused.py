"""Why a batch's archive was refused as a whole."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("batches", sa.Column("problem", postgresql.JSONB(), nullable=True))
