"""API keys in, principals out: `Authorization: Bearer tq_...`, or the page's signed session that a key opened.

A key that was found in force is taken without another look for `key_seconds`, by each process for itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from flask import g, request, session
from sqlalchemy.orm import InstrumentedAttribute, Session

from api import csrf
from api.context import Principal, Services, services
from shared import keys
from shared.errors import Unauthenticated
from shared.models import ApiKey

SESSION_KEY = "key_id"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def authenticate() -> None:
    """Before a request under /v1: set `g.principal`, or raise Unauthenticated.

    Runs before the body is read, so that strangers upload nothing.
    """
    service = services()
    column, value = _given()
    found = service.principals.get(value) or _look_up(service, column, value)
    g.principal = found
    structlog.contextvars.bind_contextvars(tenant_id=found.tenant_id, key_id=found.key_id)


def _given() -> tuple[InstrumentedAttribute[str], str]:
    """Which key is meant: the column of its row, and what is in it."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return ApiKey.hash, keys.digest(credentials.strip())
    if key_id := session.get(SESSION_KEY):
        # A browser adds the cookie to whatever page asks; nobody else's page knows the token.
        if request.method not in SAFE_METHODS:
            csrf.check(request.headers.get(csrf.HEADER))
        return ApiKey.id, key_id
    raise Unauthenticated("this needs an API key: Authorization: Bearer tq_...")


def _look_up(service: Services, column: InstrumentedAttribute[str], value: str) -> Principal:
    """The principal of a key in force, remembered; Unauthenticated, which is not, as a new key works at once."""
    with service.database.transaction() as database_session:
        key = keys.in_force(database_session, column == value)
        if key is None:
            raise Unauthenticated("the API key is unknown, expired or revoked")
        _note_use(database_session, key)
    seconds = service.settings.key_seconds
    if key.expires_at is not None:
        seconds = min(seconds, (key.expires_at - datetime.now(UTC)).total_seconds())
    found = Principal(key.id, key.tenant_id, frozenset(key.scopes))
    service.principals.put(value, value=found, seconds=seconds)
    return found


def _note_use(database_session: Session, key: ApiKey) -> None:
    # Once a minute is precise enough, and spares a write per look.
    stale = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < sa.func.now() - timedelta(minutes=1))
    database_session.execute(
        sa.update(ApiKey)
        .where(ApiKey.id == key.id, stale)
        .values(last_used_at=sa.func.now())
        .execution_options(synchronize_session=False)
    )
