"""`Idempotency-Key`: the same request sent again gets the resource that the first one made.

The key's row is written in the transaction that makes the resource. Of two concurrent requests the second waits for
the first one's commit at the unique index, and then finds its row: no window in which both create.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from flask import Response, request
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from api.context import Principal
from shared.errors import IdempotencyKeyReused, InvalidRequest
from shared.models import IdempotencyKey

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

# In the order of the keys: two transactions that wait for each other's keys would never end.
_REMEMBER = sa.text("""
    INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource_id)
    SELECT :tenant_id, key, fingerprint, resource_id
    FROM json_to_recordset(:uses) AS u(key text, fingerprint text, resource_id text) ORDER BY key
    ON CONFLICT DO NOTHING RETURNING resource_id
""").bindparams(sa.bindparam("uses", type_=JSON))


def sent_key() -> str | None:
    """The request's key, if it has one; InvalidRequest for one that cannot be kept."""
    key = request.headers.get(HEADER)
    if key is not None and (not 1 <= len(key) <= 255 or not key.isprintable()):
        raise InvalidRequest(f"{HEADER} takes 1 to 255 printable characters")
    return key


@dataclass(frozen=True)
class KeyUse:
    """An Idempotency-Key as a request came with it, and the id of what it is to make."""

    key: str
    fingerprint: str
    resource_id: str


def key_use(fingerprint: str, resource_id: str) -> KeyUse | None:
    """This request's; None when it came without a key."""
    key = sent_key()
    return None if key is None else KeyUse(key, fingerprint, resource_id)


def earlier(session: Session, who: Principal, fingerprint: str, resource_id: str) -> str | None:
    """Remember `resource_id` for the request's key; the earlier resource's id if there is one.

    IdempotencyKeyReused when the key came with another request before.
    """
    key = sent_key()
    return None if key is None else remember(session, who, key, fingerprint, resource_id)


def remember(session: Session, who: Principal, key: str, fingerprint: str, resource_id: str) -> str | None:
    """As `earlier`, for a key at hand."""
    (first,) = remember_all(session, who.tenant_id, [KeyUse(key, fingerprint, resource_id)])
    if isinstance(first, IdempotencyKeyReused):
        raise first
    return first


def remember_all(session: Session, tenant_id: str, uses: Sequence[KeyUse]) -> list[str | IdempotencyKeyReused | None]:
    """For each use the id of the earlier resource, None if this is the first, or the error if it was another request.

    Of two uses of a key in one call the first makes the resource.
    """
    if not uses:
        return []
    rows = [vars(use) for use in uses]
    made = set(session.scalars(_REMEMBER, {"tenant_id": tenant_id, "uses": rows}))
    if len(made) == len(uses):
        return [None] * len(uses)
    mine = sa.and_(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key.in_([use.key for use in uses]))
    known = {row.key: row for row in session.scalars(sa.select(IdempotencyKey).where(mine))}
    return [None if use.resource_id in made else _first(known[use.key], use.fingerprint) for use in uses]


def _first(row: IdempotencyKey, fingerprint: str) -> str | IdempotencyKeyReused:
    if row.fingerprint != fingerprint:
        return IdempotencyKeyReused(f"this {HEADER} was used for a different request")
    return row.resource_id


def find(session: Session, who: Principal, key: str, fingerprint: str) -> str | None:
    """The id of what was made with the key, if anything was; IdempotencyKeyReused if by another request."""
    row = session.get(IdempotencyKey, (who.tenant_id, key))
    first = None if row is None else _first(row, fingerprint)
    if isinstance(first, IdempotencyKeyReused):
        raise first
    return first


def located(response: Response, location: str, *, replayed: bool) -> Response:
    """The answer to a request that creates: where the resource is, and whether an earlier request made it."""
    response.headers["Location"] = location
    if replayed:
        response.headers[REPLAYED] = "true"
    return response
