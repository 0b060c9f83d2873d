"""Which deliveries are due, with all that sending them needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from shared.db.tables import WebhookEndpoint

# A receiver that is slow holds at most this many of the threads.
PER_ENDPOINT = 4
# Tenants take turns, and each tenant's endpoints: whoever has many endpoints, or slow ones, keeps nobody else waiting.
DUE = sa.text("""
    SELECT id, endpoint_id, tenant_id FROM (
        SELECT id, endpoint_id, tenant_id, next_attempt_at,
            row_number() OVER (PARTITION BY tenant_id ORDER BY turn_of_endpoint, next_attempt_at) AS turn_of_tenant
        FROM (
            SELECT id, endpoint_id, tenant_id, next_attempt_at,
                row_number() OVER (PARTITION BY endpoint_id ORDER BY next_attempt_at) AS turn_of_endpoint
            FROM deliveries WHERE state = 'pending' AND next_attempt_at <= now()
                AND endpoint_id <> ALL (:full) AND tenant_id <> ALL (:sated)
        ) due WHERE turn_of_endpoint <= :per_endpoint
    ) turns ORDER BY turn_of_tenant, next_attempt_at LIMIT :many
""").columns(id=sa.Text, endpoint_id=sa.Text, tenant_id=sa.Text)


@dataclass(frozen=True)
class DueDelivery:
    """A claimed delivery with all that sending it needs."""

    delivery_id: str
    token: str
    endpoint_id: str
    tenant_id: str
    url: str
    secrets: tuple[str, ...]
    message_id: str
    payload: dict[str, Any]
    attempt: int
    attempt_of_round: int
    #: whether the endpoint's last attempt failed
    failing: bool


def secrets_in_force(endpoint: WebhookEndpoint) -> Iterator[str]:
    """Yield the secrets that sign for an endpoint: its own, and the one before while it still may."""
    yield endpoint.secret
    until = endpoint.previous_secret_until
    if endpoint.previous_secret and until and until > datetime.now(UTC):
        yield endpoint.previous_secret
