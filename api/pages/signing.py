"""Signing in with an API key, and out. The session holds the key's id alone: revoking the key ends it."""

from __future__ import annotations

from datetime import timedelta

import structlog
from flask import redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from api.http import csrf
from api.http.audit import record
from api.http.auth import SESSION_ID, SESSION_KEY
from api.http.principal import Principal
from api.http.services import services
from shared import keys, page_sessions
from shared.errors import ForeignRequest

#: Where a stranger wanted to go; kept in the session, so that no address from outside is ever followed.
WANTED = "wanted"
log = structlog.get_logger(__name__)


def sign_in() -> tuple[str, int] | AnyResponse:
    """Open a session for the key in the form; 401 and the form again when the key is not in force."""
    try:
        csrf.check(request.form.get(csrf.FIELD))
    except ForeignRequest:
        return render_template("sign_in.html", expired=True), 403
    database = services().database
    with database.transaction() as database_session:
        # One query answers for unknown, expired and revoked keys alike: the time it takes does not tell which.
        key = keys.find(database_session, request.form.get("key", "").strip())
    if key is None:
        log.info("session.refused")
        return render_template("sign_in.html", refused=True), 401
    with database.of(key.tenant_id).transaction() as database_session:
        keys.note_use(database_session, key.id)
        lifetime = timedelta(hours=services().settings.session_hours)
        session_id = page_sessions.begin(database_session, key, lifetime)
        record(database_session, Principal(key.id, key.tenant_id, key.scopes), "session.open", key.id)
    wanted = session.get(WANTED) or url_for("pages.home")
    session.clear()
    session.permanent = True
    session[SESSION_KEY], session[SESSION_ID] = key.id, session_id
    log.info("session.opened", key_id=key.id, tenant_id=key.tenant_id)
    return redirect(wanted, 303)


def sign_out() -> AnyResponse:
    """End the session, also where its cookie was copied; the browser forgets the pictures that it kept."""
    csrf.check(request.form.get(csrf.FIELD))
    if SESSION_KEY in session:
        _end(str(session[SESSION_KEY]), str(session.get(SESSION_ID, "")))
    session.clear()
    response = redirect(url_for("pages.home"), 303)
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def _end(key_id: str, session_id: str) -> None:
    service = services()
    with service.database.transaction() as database_session:
        key = keys.find_by_id(database_session, key_id)
    if key is not None:  # else the session ended with its key
        with service.database.of(key.tenant_id).transaction() as database_session:
            page_sessions.end(database_session, key, session_id)
    service.principals.forget(session_id)
