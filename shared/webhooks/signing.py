"""How a webhook is signed.

Follows the Standard Webhooks specification: headers `webhook-id`, `webhook-timestamp`, `webhook-signature`;
secrets `whsec_` + base64; signed content `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from datetime import datetime

from standardwebhooks.webhooks import Webhook


def new_secret() -> str:
    """Make a fresh signing secret: 256 random bits."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(signing_secrets: Iterable[str], message_id: str, at: datetime, body: str) -> dict[str, str]:
    """Return the three headers of a delivery; one signature per secret, so that receivers can rotate."""
    signatures = " ".join(Webhook(secret).sign(message_id, at, body) for secret in signing_secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signatures,
    }
