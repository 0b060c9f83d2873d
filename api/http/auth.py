"""API keys in, principals out: `Authorization: Bearer tq_...`, or the page's signed session that a key opened.

A key that was found in force is taken without another look for `key_seconds`, by each process for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import cast

import structlog
from flask import current_app, g, request, session
from sqlalchemy.orm import Session

from api.http import csrf
from api.http.principal import Principal
from api.http.services import EXTENSION, Services
from shared import keys, page_sessions
from shared.errors import Unauthenticated
from shared.keys import KeyInForce

#: In the cookie: the key that opened the session, and which session it is.
SESSION_KEY, SESSION_ID = "key_id", "session_id"
Find = Callable[[Session], KeyInForce | None]
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def authenticate() -> None:
    """Before a request under /v1: set `g.principal`, or raise Unauthenticated.

    Runs before the body is read, so that strangers upload nothing.
    """
    service = cast(Services, current_app.extensions[EXTENSION])
    found = _remembered(service)
    g.principal = found
    g.services = service.of(found.tenant_id)
    structlog.contextvars.bind_contextvars(tenant_id=found.tenant_id, key_id=found.key_id)


def _remembered(service: Services) -> Principal:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        key = credentials.strip()
        # By its digest: a process's memory is no place for keys.
        digest = keys.digest(key)
        return service.principals.get(digest) or _look_up(service, digest, partial(keys.find, key=key))
    if key_id := session.get(SESSION_KEY):
        # A browser adds the cookie to whatever page asks; nobody else's page knows the token.
        if request.method not in SAFE_METHODS:
            csrf.check(request.headers.get(csrf.HEADER))
        session_id = str(session.get(SESSION_ID, ""))
        find = partial(keys.find_by_id, key_id=key_id)
        return service.principals.get(session_id) or _look_up(service, session_id, find, session_id)
    raise Unauthenticated("this needs an API key: Authorization: Bearer tq_...")


def _look_up(service: Services, remembered_as: str, find: Find, session_id: str | None = None) -> Principal:
    """Return the principal of a key in force, and of a session that is open, remembered.

    Unauthenticated, which is not remembered, as a new key works at once.
    """
    with service.database.transaction() as database_session:
        key = find(database_session)
    if key is None:
        raise Unauthenticated("the API key is unknown, expired or revoked")
    with service.database.of(key.tenant_id).transaction() as database_session:
        if session_id is not None and not page_sessions.is_open(database_session, key, session_id):
            raise Unauthenticated("the session has ended")
        keys.note_use(database_session, key.id)
    seconds = service.settings.key_seconds
    if key.expires_at is not None:
        seconds = min(seconds, (key.expires_at - datetime.now(UTC)).total_seconds())
    found = Principal(key.id, key.tenant_id, key.scopes)
    service.principals.put(remembered_as, value=found, seconds=seconds)
    return found
