"""How many jobs of each tenant wait, for whoever lets more in.

A function, which runs as its owner: the answer is the same for a role that sees one tenant's rows only.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

# By the partial indexes of the two kinds of line.
LENGTHS = """
CREATE FUNCTION queue_lengths() RETURNS TABLE (tenant_id text, jobs bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT tenant_id, count(*) FROM (
        SELECT tenant_id FROM jobs WHERE state = 'queued' AND not_before IS NULL
        UNION ALL SELECT tenant_id FROM jobs WHERE state = 'queued' AND not_before IS NOT NULL
    ) waiting GROUP BY tenant_id
$$;
REVOKE ALL ON FUNCTION queue_lengths FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue_lengths TO thoraq_api;
"""


def upgrade() -> None:
    op.execute(LENGTHS)
