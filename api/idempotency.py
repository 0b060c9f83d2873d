"""`Idempotency-Key`: the same request sent again gets the resource that the first one made.

The key's row is written in the transaction that makes the resource. Of two concurrent requests the second waits for
the first one's commit at the unique index, and then finds its row: no window in which both create.
"""

from __future__ import annotations

from flask import Response, request
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.context import Principal
from shared.errors import IdempotencyKeyReused, InvalidRequest
from shared.models import IdempotencyKey

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"


def earlier(session: Session, who: Principal, fingerprint: str, resource_id: str) -> str | None:
    """Remember `resource_id` for the request's key; the earlier resource's id if there is one.

    IdempotencyKeyReused when the key came with another request before.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise InvalidRequest(f"{HEADER} takes 1 to 255 printable characters")
    row = {"tenant_id": who.tenant_id, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
    made = session.execute(insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key))
    if made.first() is not None:
        return None
    first = session.get_one(IdempotencyKey, (who.tenant_id, key))
    if first.fingerprint != fingerprint:
        raise IdempotencyKeyReused(f"this {HEADER} was used for a different request")
    return first.resource_id


def located(response: Response, location: str, *, replayed: bool) -> Response:
    """The answer to a request that creates: where the resource is, and whether an earlier request made it."""
    response.headers["Location"] = location
    if replayed:
        response.headers[REPLAYED] = "true"
    return response
