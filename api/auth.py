"""API keys in, principals out: `Authorization: Bearer tq_...`, or the page's signed session that a key opened."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
import structlog
from flask import g, request, session
from sqlalchemy.orm import Session

from api import csrf
from api.context import Principal, services
from shared import keys
from shared.errors import Unauthenticated
from shared.models import ApiKey

SESSION_KEY = "key_id"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def authenticate() -> None:
    """Before a request under /v1: set `g.principal`, or raise Unauthenticated.

    Runs before the body is read, so that strangers upload nothing.
    """
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    with services().database.transaction() as database_session:
        if scheme.lower() == "bearer":
            key = keys.find(database_session, credentials.strip())
        elif key_id := session.get(SESSION_KEY):
            # A browser adds the cookie to whatever page asks; nobody else's page knows the token.
            if request.method not in SAFE_METHODS:
                csrf.check(request.headers.get(csrf.HEADER))
            key = find_by_id(database_session, key_id)
        else:
            raise Unauthenticated("this needs an API key: Authorization: Bearer tq_...")
        if key is None:
            raise Unauthenticated("the API key is unknown, expired or revoked")
        _note_use(database_session, key)
        g.principal = Principal(key.id, key.tenant_id, frozenset(key.scopes))
    structlog.contextvars.bind_contextvars(tenant_id=key.tenant_id, key_id=key.id)


def find_by_id(database_session: Session, key_id: str) -> ApiKey | None:
    """The key behind a session, if it is still in force: revoking a key ends its sessions."""
    return database_session.scalar(
        sa.select(ApiKey).where(
            ApiKey.id == key_id,
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.func.now()),
        )
    )


def _note_use(database_session: Session, key: ApiKey) -> None:
    # Once a minute is precise enough, and spares a write per request.
    stale = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < sa.func.now() - timedelta(minutes=1))
    database_session.execute(
        sa.update(ApiKey)
        .where(ApiKey.id == key.id, stale)
        .values(last_used_at=sa.func.now())
        .execution_options(synchronize_session=False)
    )
