"""Webhooks: which addresses are allowed, which events become deliveries, and how a delivery is signed.

Follows the Standard Webhooks specification: headers `webhook-id`, `webhook-timestamp`, `webhook-signature`;
secrets `whsec_` + base64; signed content `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook

from shared.config import Networks
from shared.envelope import WebhookPayload
from shared.errors import WebhookDestinationRefused
from shared.ids import new_id
from shared.models import Delivery, DeliveryState, Event, EventType, WebhookEndpoint

SCHEDULED = "deliveries_scheduled"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# `is_global` alone is not enough: it is true for addresses that embed or relay to private ones.
REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # 6to4 relay anycast
        "::/96",  # IPv4-compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local use
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "fec0::/10",  # site-local
    )
)


def new_secret() -> str:
    """A fresh signing secret: 256 random bits."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(signing_secrets: Iterable[str], message_id: str, at: datetime, body: str) -> dict[str, str]:
    """The three headers of a delivery; one signature per secret, so that receivers can rotate."""
    signatures = " ".join(Webhook(secret).sign(message_id, at, body) for secret in signing_secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signatures,
    }


def is_allowed(address: Address, allowed: Networks) -> bool:
    """Whether deliveries may go to this address: a public unicast one, or one in a network that the operator named."""
    if any(address in network for network in allowed if network.version == address.version):
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None or any(address in network for network in REFUSED if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast


def resolve(url: str, *, allow_http: bool, allowed: Networks) -> list[Address]:
    """Every address of the URL's host; WebhookDestinationRefused when the URL or any of them is not allowed."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WebhookDestinationRefused("the URL is malformed") from error
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise WebhookDestinationRefused("the URL must begin with https://")
    if not parts.hostname or parts.username or parts.password:
        raise WebhookDestinationRefused("the URL needs a host, and takes no user name or password")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookDestinationRefused("the URL's host cannot be resolved") from error
    addresses = [ipaddress.ip_address(info[4][0]) for info in found]
    if not all(is_allowed(address, allowed) for address in addresses):
        raise WebhookDestinationRefused("the URL's host has an address that is not public")
    return addresses


def emit(
    session: Session,
    tenant_id: str,
    kind: EventType,
    data: Callable[[], dict[str, Any]],
    *,
    job_id: str | None = None,
    batch_id: str | None = None,
) -> None:
    """Record an event and one delivery per subscribed endpoint, in the transaction of what happened.

    A tenant without endpoints has no events: `data` is then never made.
    """
    endpoints = session.scalars(sa.select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id)).all()
    if not endpoints:
        return
    event = record_event(session, tenant_id, kind, data(), job_id=job_id, batch_id=batch_id)
    for endpoint in endpoints:
        if endpoint.enabled and ("*" in endpoint.events or kind.value in endpoint.events):
            schedule(session, event, endpoint)


def record_event(
    session: Session,
    tenant_id: str,
    kind: EventType,
    data: dict[str, Any],
    *,
    job_id: str | None = None,
    batch_id: str | None = None,
) -> Event:
    """The event row; its id becomes the `webhook-id` of every delivery."""
    payload = WebhookPayload(type=kind, timestamp=datetime.now(UTC), data=data).model_dump(mode="json")
    event = Event(id=new_id("msg"), tenant_id=tenant_id, type=kind, job_id=job_id, batch_id=batch_id, payload=payload)
    session.add(event)
    session.flush()
    return event


def schedule(session: Session, event: Event, endpoint: WebhookEndpoint) -> Delivery:
    """A delivery that is due now."""
    delivery = Delivery(
        id=new_id("dlv"),
        tenant_id=event.tenant_id,
        event_id=event.id,
        endpoint_id=endpoint.id,
        state=DeliveryState.PENDING,
        next_attempt_at=sa.func.now(),
    )
    session.add(delivery)
    session.flush()
    session.info[SCHEDULED] = True
    return delivery


def deliveries_scheduled(session: Session) -> bool:
    """Whether this transaction made deliveries: its owner rings the deliver queue once it has committed."""
    return bool(session.info.get(SCHEDULED))
