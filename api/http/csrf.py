"""What a session asks to change must come from our own pages: a token that only they can read (OWASP, CSRF).

The cookie is SameSite=Lax already; this holds where a browser does not keep to that, and against other sites of the
hospital's own domain, which count as the same site.
"""

from __future__ import annotations

import secrets

from flask import session

from shared.errors import ForeignRequest

HEADER = "X-CSRF-Token"
FIELD = "csrf_token"


def token() -> str:
    """Return the session's token, made at the first call."""
    if FIELD not in session:
        session[FIELD] = secrets.token_urlsafe(32)
    return str(session[FIELD])


def check(sent: str | None) -> None:
    """ForeignRequest unless this is the session's token."""
    expected = session.get(FIELD)
    if not expected or not secrets.compare_digest(expected.encode(), (sent or "").encode()):
        raise ForeignRequest(f"the request carries no valid token ({HEADER}, or the form's {FIELD})")
