"""The page: sign in with an API key, send files, watch them finish, look at a result. Server-rendered HTML.

Reading works without JavaScript; `static/*.js` adds sending and the updates without reloading. A page that shows
something unfinished fetches itself again and swaps its live region, so every word is written in one place: here.
"""

from __future__ import annotations

from typing import Any

import structlog
from flask import Blueprint, Response, redirect, render_template, request, session, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from api.http import csrf
from api.http.auth import SESSION_KEY, authenticate
from api.http.problems import BY_STATUS
from api.pages import batches, documents, recent, studies, words
from api.pages.signing import WANTED, sign_in, sign_out
from shared.errors import ThoraqError, Unauthenticated

blueprint = Blueprint("pages", __name__, template_folder="templates", static_folder="static", static_url_path="/static")
log = structlog.get_logger(__name__)

#: Nothing from elsewhere, nothing inline: a hospital's browser talks to this server alone.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

for name, word in words.FILTERS.items():
    blueprint.add_app_template_filter(word, name)
for name, test in words.TESTS.items():
    blueprint.add_app_template_test(test, name)

blueprint.get("/jobs/<string:job_id>")(studies.show_job)
blueprint.get("/batches/<string:batch_id>")(batches.show_batch)
blueprint.get("/models/<string:sha256>")(documents.show_model)
blueprint.get("/problems")(documents.list_problems)
blueprint.get("/docs")(documents.show_docs)
blueprint.get("/docs/assets/<path:name>")(documents.docs_asset)
blueprint.post("/sign-in")(sign_in)
blueprint.post("/sign-out")(sign_out)


@blueprint.get("/")
def home() -> str | Response:
    """Return the tenant's recent jobs and the form that sends files; the sign-in form for strangers."""
    try:
        authenticate()
    except Unauthenticated:
        # The session outlives its key when that is revoked or expires.
        return render_template("sign_in.html", ended=SESSION_KEY in session, wanted=session.get(WANTED))
    return recent.show_recent()


@blueprint.context_processor
def on_every_page() -> dict[str, Any]:
    """Return what the layout shows beside the page's own content."""
    return {"csrf_token": csrf.token, "signed_in": SESSION_KEY in session}


@blueprint.errorhandler(Unauthenticated)
def to_sign_in(_error: Unauthenticated) -> AnyResponse:
    """Strangers sign in first, and come back to where they wanted to go."""
    session[WANTED] = request.path
    return redirect(url_for("pages.home"), 303)


@blueprint.errorhandler(ThoraqError)
def show_error(error: ThoraqError) -> tuple[str, int]:
    """Show the problem as a page, for people."""
    if error.status >= 500:
        log.error("page.unavailable", error=error.type, detail=error.detail, exc_info=error)
    return render_template("error.html", error=error), error.status


@blueprint.errorhandler(Exception)
def show_fault(error: Exception) -> tuple[str, int]:
    """Return what the framework refuses, and faults of ours, as a page; a fault's traceback goes to the log."""
    if isinstance(error, HTTPException) and error.code in BY_STATUS:
        return show_error(BY_STATUS[error.code]())
    log.error("page.failed", error=type(error).__name__, exc_info=error)
    return render_template("error.html", error=ThoraqError()), 500


@blueprint.after_request
def protect(response: Response) -> Response:
    """Headers of every page; a page that needs a looser policy has set its own."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    if response.mimetype == "text/html":
        # Results are not for whoever sits down at the workstation next and goes back in its history.
        response.headers["Cache-Control"] = "no-store"
    return response
