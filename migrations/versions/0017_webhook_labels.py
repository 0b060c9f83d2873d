"""Endpoints whose events carry labels, and what receivers answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column(
        "webhook_endpoints", sa.Column("include_labels", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("delivery_attempts", sa.Column("response_head", sa.Text(), nullable=True))
