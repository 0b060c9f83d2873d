"""Sessions of the page that are open: a cookie that was copied before its owner signed out is worth nothing after."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_level_security import enable_row_level_security

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_table(
        "page_sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_page_sessions_tenant_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_page_sessions_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_page_sessions")),
    )
    op.create_index("ix_page_sessions_expires_at", "page_sessions", ["expires_at"])
    enable_row_level_security("page_sessions", "SELECT, INSERT, DELETE")
