"""The database lets a job go just where the documented diagram does: to quarantine from a worker, not from the line."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"

GUARD = """
CREATE OR REPLACE TRIGGER jobs_guard BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NOT (
    NEW.state = OLD.state AND OLD.state IN ('queued', 'running')
    OR OLD.state = 'queued' AND NEW.state IN ('running', 'failed', 'cancelled')
    OR OLD.state = 'running' AND NEW.state <> 'running'
)) EXECUTE FUNCTION jobs_refuse();
"""


def upgrade() -> None:
    op.execute(GUARD)
