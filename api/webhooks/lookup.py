"""Webhook endpoints and deliveries as clients see them, and where a tenant's are found."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload, selectinload

from api.http.principal import Principal
from api.webhooks.schemas import (
    AttemptView,
    DeliveryView,
    EndpointView,
)
from shared.db.lookup import existing
from shared.db.tables import Delivery, DeliveryAttempt, WebhookEndpoint


def endpoint_view(endpoint: WebhookEndpoint) -> EndpointView:
    """Return the endpoint as clients see it, without its secret."""
    return EndpointView.model_validate(endpoint, from_attributes=True)


def attempt_view(attempt: DeliveryAttempt) -> AttemptView:
    """One attempt, and what came back."""
    return AttemptView(
        number=attempt.number,
        status_code=attempt.status_code,
        error=attempt.error,
        response_body=attempt.response_head,
        duration_ms=attempt.duration_ms,
        created_at=attempt.created_at,
    )


def delivery_view(delivery: Delivery) -> DeliveryView:
    """Return the delivery with its attempts."""
    return DeliveryView(
        id=delivery.id,
        event_id=delivery.event_id,
        endpoint_id=delivery.endpoint_id,
        type=delivery.event.type,
        state=delivery.state,
        next_attempt_at=delivery.next_attempt_at,
        created_at=delivery.created_at,
        finished_at=delivery.finished_at,
        attempts=[attempt_view(attempt) for attempt in delivery.attempts],
    )


def find_endpoint(session: Session, who: Principal, endpoint_id: str, *, keep: bool = False) -> WebhookEndpoint:
    """Find the tenant's endpoint, or NotFound; with `keep` nobody removes it before this transaction has ended."""
    mine = sa.select(WebhookEndpoint).where(
        WebhookEndpoint.id == endpoint_id, WebhookEndpoint.tenant_id == who.tenant_id
    )
    if keep:
        mine = mine.with_for_update(read=True, key_share=True)
    return existing(session.scalar(mine), "webhook endpoint")


def find_delivery(session: Session, who: Principal, delivery_id: str) -> Delivery:
    """Find the tenant's delivery with event and attempts, or NotFound."""
    mine = sa.select(Delivery).where(Delivery.id == delivery_id, Delivery.tenant_id == who.tenant_id)
    return existing(
        session.scalar(mine.options(joinedload(Delivery.event), selectinload(Delivery.attempts))), "delivery"
    )
