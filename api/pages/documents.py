"""What explains the rest: model cards, the types of problems, the API's documentation."""

from __future__ import annotations

from pathlib import Path

import flask_openapi3_swagger
from flask import Response, make_response, render_template, request, send_from_directory

from api.http.auth import authenticate
from api.http.principal import principal
from api.http.problems import problem_types
from api.http.services import services
from api.pages.words import LEFT_OUT_SCORES, SCORES
from shared.db.lookup import existing
from shared.db.tables import ModelBundle
from shared.errors import meaning_of
from shared.keys import Scope

SWAGGER = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"
#: Swagger UI's style sheet draws its icons from data: addresses; everything else is as strict as on the other pages.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def show_model(sha256: str) -> str:
    """Show a bundle's card: what it is, what it was made from, how well it does and where it stops."""
    authenticate()
    principal(Scope.MODELS_READ)
    with services().database.transaction() as session:
        bundle = existing(session.get(ModelBundle, sha256), "model bundle")
    return render_template(
        "model.html", bundle=bundle, card=bundle.card, score_names=SCORES, left_out_names=LEFT_OUT_SCORES
    )


def list_problems() -> str:
    """Every type of problem, as its class explains it."""
    return render_template("problems.html", kinds=[(kind, meaning_of(kind)) for kind in problem_types()])


def show_docs() -> Response:
    """Show the API's documentation: an introduction, and the reference that the browser draws from /openapi.json."""
    response = make_response(render_template("docs.html", url=request.url_root.rstrip("/")))
    response.headers["Content-Security-Policy"] = DOCS_POLICY
    return response


def docs_asset(name: str) -> Response:
    """Return a file of Swagger UI, out of the installed plugin."""
    return send_from_directory(SWAGGER, name)
