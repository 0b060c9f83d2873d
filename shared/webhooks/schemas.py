"""The JSON shape of every webhook."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from shared.db.tables import EventType


class WebhookPayload(BaseModel):
    """The body of a webhook (Standard Webhooks, section Payload structure)."""

    type: EventType
    timestamp: datetime
    data: dict[str, Any]
