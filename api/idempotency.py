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


def sent_key() -> str | None:
    """The request's key, if it has one; InvalidRequest for one that cannot be kept."""
    key = request.headers.get(HEADER)
    if key is not None and (not 1 <= len(key) <= 255 or not key.isprintable()):
        raise InvalidRequest(f"{HEADER} takes 1 to 255 printable characters")
    return key


def earlier(session: Session, who: Principal, fingerprint: str, resource_id: str) -> str | None:
    """Remember `resource_id` for the request's key; the earlier resource's id if there is one.

    IdempotencyKeyReused when the key came with another request before.
    """
    key = sent_key()
    return None if key is None else remember(session, who, key, fingerprint, resource_id)


def remember(session: Session, who: Principal, key: str, fingerprint: str, resource_id: str) -> str | None:
    """As `earlier`, for a key at hand."""
    row = {"tenant_id": who.tenant_id, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
    made = session.execute(insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key))
    return None if made.first() is not None else find(session, who, key, fingerprint)


def find(session: Session, who: Principal, key: str, fingerprint: str) -> str | None:
    """The id of what was made with the key, if anything was; IdempotencyKeyReused if by another request."""
    first = session.get(IdempotencyKey, (who.tenant_id, key))
    if first is not None and first.fingerprint != fingerprint:
        raise IdempotencyKeyReused(f"this {HEADER} was used for a different request")
    return None if first is None else first.resource_id


def located(response: Response, location: str, *, replayed: bool) -> Response:
    """The answer to a request that creates: where the resource is, and whether an earlier request made it."""
    response.headers["Location"] = location
    if replayed:
        response.headers[REPLAYED] = "true"
    return response
