"""Deliveries again: what an endpoint missed since a time, because it failed or was switched off."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from shared.db.tables import WebhookEndpoint
from shared.webhooks.outbox import SCHEDULED

#: What one replay sends at most; far below what a statement's time allows.
MOST = 10_000
#: The clocks of the process that makes ids and of the database may differ by so much.
SKEW = timedelta(minutes=1)

# Events of the time in which it was switched off have no delivery. Ids begin with their time, so that the primary key
# serves the look; `test` was for one endpoint.
MISSED = sa.text("""
    INSERT INTO deliveries (id, tenant_id, event_id, endpoint_id, state)
    SELECT 'dlv_' || substr(e.id, 5, 12) || left(md5(e.id || w.id), 20), e.tenant_id, e.id, w.id, 'pending'
    FROM events e JOIN webhook_endpoints w ON w.id = :endpoint AND w.tenant_id = e.tenant_id
    WHERE e.id >= :first AND e.created_at >= :since AND e.type <> 'test' AND e.created_at >= w.created_at
        AND (e.type = ANY (w.events) OR '*' = ANY (w.events))
        AND NOT EXISTS (SELECT FROM deliveries d WHERE d.event_id = e.id AND d.endpoint_id = w.id)
    ORDER BY e.id LIMIT :most
""")
AGAIN = sa.text("""
    UPDATE deliveries SET state = 'pending', round_start = attempt_count, next_attempt_at = now(), finished_at = NULL
    WHERE id IN (
        SELECT id FROM deliveries WHERE endpoint_id = :endpoint AND created_at >= :since
            AND (state = 'failed' OR :delivered AND state = 'delivered')
        ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
    )
""")


def replay(session: Session, endpoint: WebhookEndpoint, since: datetime, *, delivered: bool) -> int:
    """Schedule what the endpoint did not get since then, oldest first, and with `delivered` also what it got.

    How many; at most `MOST`, and then it is to be asked again. Every event keeps its id.
    """
    first = f"msg_{max(int((since - SKEW).timestamp() * 1000), 0):012x}"
    asked: dict[str, Any] = {"endpoint": endpoint.id, "since": since}
    missed = _count(session, MISSED, asked | {"first": first, "most": MOST})
    again = _count(session, AGAIN, asked | {"delivered": delivered, "most": MOST - missed}) if missed < MOST else 0
    if missed + again:
        session.info[SCHEDULED] = True
    return missed + again


def _count(session: Session, statement: sa.TextClause, values: dict[str, Any]) -> int:
    done = session.execute(statement, values)
    return done.rowcount if isinstance(done, CursorResult) else 0
