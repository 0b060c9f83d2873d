"""Since when an endpoint is subscribed as it is: what happened before says nothing about its deliveries.

A trigger writes it, so that workers of the revision before, which switch endpoints off, keep it true as well.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

NOTE = """
CREATE FUNCTION webhook_endpoints_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at = now();
    RETURN NEW;
END $$;
CREATE TRIGGER webhook_endpoints_note_change BEFORE UPDATE ON webhook_endpoints FOR EACH ROW
    WHEN (NEW.enabled <> OLD.enabled OR NEW.events <> OLD.events) EXECUTE FUNCTION webhook_endpoints_note_change();
"""


def upgrade() -> None:
    op.add_column(
        "webhook_endpoints",
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.execute(NOTE)
