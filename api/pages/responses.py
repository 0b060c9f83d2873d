"""What the pages for people who have signed in share."""

from __future__ import annotations

from flask import Response, make_response, render_template, request
from sqlalchemy.orm import Session

from api.http.principal import Principal
from shared.db.tables import Tenant


def conditional(template: str, **values: object) -> Response:
    """Return the page with its ETag; 304 when the browser's copy is the same, so that asking again costs little."""
    response = make_response(render_template(template, **values))
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


def tenant_name(session: Session, who: Principal) -> str:
    """Return the hospital that the page is for."""
    return session.get_one(Tenant, who.tenant_id).name
