"""`Idempotency-Key`: the same request sent again gets the resource that the first one made.

The key's row is written in the transaction that makes the resource. Of two concurrent requests the second waits for
the first one's commit at the unique index, and then finds its row: no window in which both create.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import Response, request
from sqlalchemy.dialects.postgresql import JSON, insert
from sqlalchemy.orm import Session

from api.http.principal import Principal
from shared.db.tables import IdempotencyKey
from shared.errors import IdempotencyKeyReused, InvalidRequest

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"


def sent_key() -> str | None:
    """Return the request's key, if it has one; InvalidRequest for one that cannot be kept."""
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


def key_use(fingerprint: Callable[[], str], resource_id: str) -> KeyUse | None:
    """Return this request's; None, and no fingerprint is taken, when it came without a key."""
    key = sent_key()
    return None if key is None else KeyUse(key, fingerprint(), resource_id)


def claim_idempotency_key(session: Session, who: Principal, fingerprint: str, resource_id: str) -> str | None:
    """Claim the request's key for `resource_id`; return the earlier resource's id if there is one.

    IdempotencyKeyReused when the key came with another request before.
    """
    key = sent_key()
    return None if key is None else remember(session, who, key, fingerprint, resource_id)


def remember(session: Session, who: Principal, key: str, fingerprint: str, resource_id: str) -> str | None:
    """As `claim_idempotency_key`, for a key at hand."""
    row = {"tenant_id": who.tenant_id, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
    made = session.execute(insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key))
    return None if made.first() is not None else find(session, who, key, fingerprint)


def remembering(*more: str) -> tuple[sa.CTE, sa.CTE]:
    """Two parts of a statement that makes resources: the uses of keys that it is given, and those that are the first.

    Its parameters are `tenant_id` and `uses`, a list of uses as JSON, with `more` texts in each.
    """
    names = ("key", "fingerprint", "resource_id")
    columns = [sa.column(name, sa.Text) for name in (*names, *more)]
    uses = sa.func.json_to_recordset(sa.bindparam("uses", type_=JSON)).table_valued(*columns, name="u")
    asked = sa.select(*uses.render_derived(with_types=True).c).cte("asked")
    tenant_id = sa.bindparam("tenant_id", type_=sa.Text)
    # In the order of the keys: two transactions that wait for each other's keys would never end.
    rows = sa.select(tenant_id, *(asked.c[name] for name in names)).order_by(asked.c.key)
    first = insert(IdempotencyKey).from_select(["tenant_id", *names], rows).on_conflict_do_nothing()
    return asked, first.returning(IdempotencyKey.resource_id).cte("made")


def firsts(connection: sa.Connection, tenant_id: str, uses: Sequence[KeyUse]) -> dict[str, str | IdempotencyKeyReused]:
    """By the id of what each use was to make: what its key has made, or the error if that was another request."""
    columns = (IdempotencyKey.key, IdempotencyKey.fingerprint, IdempotencyKey.resource_id)
    mine = sa.and_(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key.in_([use.key for use in uses]))
    known = {row.key: row for row in connection.execute(sa.select(*columns).where(mine))}
    return {use.resource_id: _first(known[use.key], use.fingerprint) for use in uses}


def _first(row: IdempotencyKey | sa.Row[*tuple[Any, ...]], fingerprint: str) -> str | IdempotencyKeyReused:
    if row.fingerprint != fingerprint:
        return IdempotencyKeyReused(f"this {HEADER} was used for a different request")
    return row.resource_id


def find(session: Session, who: Principal, key: str, fingerprint: str) -> str | None:
    """Return the id of what was made with the key, if anything was; IdempotencyKeyReused if by another request."""
    row = session.get(IdempotencyKey, (who.tenant_id, key))
    first = None if row is None else _first(row, fingerprint)
    if isinstance(first, IdempotencyKeyReused):
        raise first
    return first


def with_location(response: Response, location: str, *, replayed: bool) -> Response:
    """Add to an answer where the resource is that a request made, and whether an earlier one made it."""
    response.headers["Location"] = location
    if replayed:
        response.headers[REPLAYED] = "true"
    return response
