"""How many stat jobs of a tenant may wait before others: what comes beyond is served as routine.

A trigger, as jobs come in from several places: requests, batches, studies that are closed, workers of the revision
before. It counts as its owner, by the index of the lines, and no further than the share.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

SHARE = """
CREATE FUNCTION jobs_hold_stat_share() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    share int := (SELECT stat_share FROM tenants WHERE id = NEW.tenant_id);
BEGIN
    IF (SELECT count(*) FROM (
        SELECT FROM jobs WHERE state = 'queued' AND not_before IS NULL AND tenant_id = NEW.tenant_id AND rank = 0
        LIMIT share
    ) waiting) >= share THEN
        NEW.rank = 1;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER jobs_stat_share BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.state = 'queued' AND NEW.rank = 0)
    EXECUTE FUNCTION jobs_hold_stat_share();
"""


def upgrade() -> None:
    op.add_column("tenants", sa.Column("stat_share", sa.Integer(), server_default="50", nullable=False))
    op.execute(SHARE)
