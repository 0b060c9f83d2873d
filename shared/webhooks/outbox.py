"""The outbox of webhooks: which events become deliveries, written in the transaction of what happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from shared.db.tables import Delivery, DeliveryState, Event, EventType, WebhookEndpoint
from shared.ids import new_id
from shared.webhooks.schemas import WebhookPayload

SCHEDULED = "deliveries_scheduled"
# A delivery's id begins with its event's time, as all ids do, and goes on with a hash of what it is. An endpoint is
# locked against its removal: one that went away between the look at it and the insert would undo what happened, and
# with it the jobs of every tenant in the same transaction.
EMIT = sa.text("""
    WITH happened AS (
        SELECT id, tenant_id, type, job_id, batch_id FROM json_populate_recordset(NULL::events, :webhook_events)
    ), endpoints AS (
        SELECT id, tenant_id, enabled, events FROM webhook_endpoints
        WHERE tenant_id IN (SELECT tenant_id FROM happened) ORDER BY id FOR KEY SHARE
    ), recorded AS (
        INSERT INTO events (id, tenant_id, type, job_id, batch_id)
        SELECT id, tenant_id, type, job_id, batch_id FROM happened
        WHERE tenant_id IN (SELECT tenant_id FROM endpoints) RETURNING id, tenant_id, type
    ), sent AS (
        INSERT INTO deliveries (id, tenant_id, event_id, endpoint_id, state)
        SELECT 'dlv_' || substr(t.id, 5, 12) || left(md5(t.id || w.id), 20), t.tenant_id, t.id, w.id, 'pending'
        FROM recorded t JOIN endpoints w ON w.tenant_id = t.tenant_id
        WHERE w.enabled AND (t.type = ANY (w.events) OR '*' = ANY (w.events)) RETURNING id
    )
    SELECT count(*) FROM sent
""").bindparams(sa.bindparam("webhook_events", type_=JSON))


class WebhookEvent(NamedTuple):
    """What a tenant's endpoints are told of: a job that ended, or a batch that is complete."""

    tenant_id: str
    type: EventType
    job_id: str | None = None
    batch_id: str | None = None


def emit(session: Session, webhook_events: Sequence[WebhookEvent]) -> None:
    """Record an event and one delivery per subscribed endpoint for each, in the transaction of what happened.

    One statement, however many they are. A tenant without endpoints has no events.
    """
    if not webhook_events:
        return
    rows = [{"id": new_id("msg"), **event._asdict()} for event in webhook_events]
    if session.scalar(EMIT, {"webhook_events": rows}):
        session.info[SCHEDULED] = True


def record_event(session: Session, tenant_id: str, kind: EventType, data: dict[str, Any]) -> Event:
    """Return the row of an event that is about no job and no batch.

    Its id becomes the `webhook-id` of every delivery.
    """
    payload = WebhookPayload(type=kind, timestamp=datetime.now(UTC), data=data).model_dump(mode="json")
    event = Event(id=new_id("msg"), tenant_id=tenant_id, type=kind, payload=payload)
    session.add(event)
    session.flush()
    return event


def schedule(session: Session, event: Event, endpoint: WebhookEndpoint) -> Delivery:
    """Return a delivery that is due now."""
    delivery = Delivery(
        id=new_id("dlv"),
        tenant_id=event.tenant_id,
        event_id=event.id,
        endpoint_id=endpoint.id,
        state=DeliveryState.PENDING,
    )
    session.add(delivery)
    session.flush()
    session.info[SCHEDULED] = True
    return delivery


def deliveries_scheduled(session: Session) -> bool:
    """Whether this transaction made deliveries: its owner rings the deliver queue once it has committed."""
    return bool(session.info.get(SCHEDULED))
