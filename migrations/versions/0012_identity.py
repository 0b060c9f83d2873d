"""What is kept of patients' identities: each tenant's way with them, and an account of what was taken off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"

# Volatile: every tenant that is here gets its own.
RANDOM_TEXT = "((gen_random_uuid())::text || (gen_random_uuid())::text)"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("keep_identity", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("tenants", sa.Column("uid_secret", sa.Text(), server_default=sa.text(RANDOM_TEXT), nullable=False))
    op.add_column("tenants", sa.Column("expires_after_days", sa.Float(), nullable=True))
    op.add_column("studies", sa.Column("burned_in", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("images", sa.Column("burned_in", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("images", sa.Column("deidentified", postgresql.JSONB(), nullable=True))
