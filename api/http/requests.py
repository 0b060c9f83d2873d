"""How a request is read: its body strictly, and never more of it into memory than a form or a JSON document needs."""

from __future__ import annotations

from typing import Any

import flask
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from api.http.forms.parser import StrictFormParser
from shared.errors import BadRequest, CompressedBody

MULTIPART = "multipart/form-data"
# Files are spooled to disk; every other body is held in memory. Strangers send no files.
MAX_BODY_IN_MEMORY = 1_000_000


class Request(flask.Request):
    """Flask's request, with the above."""

    form_data_parser_class = StrictFormParser

    # flask-openapi3 asks silently, and would then report malformed JSON as a missing field.
    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:  # noqa: ARG002
        try:
            return super().get_json(force=force, silent=False, cache=cache)
        except RecursionError as error:
            raise BadRequest("the JSON is nested too deeply") from error


def check_encoding(request: flask.Request) -> None:
    """CompressedBody for a body that is compressed (RFC 9110, 8.4): it would be read as what it is not."""
    codings = [coding.strip().lower() for coding in request.headers.get("Content-Encoding", "").split(",")]
    compressed = [coding for coding in codings if coding not in {"", "identity"}]
    if compressed:
        raise CompressedBody(f"the body's Content-Encoding is {', '.join(compressed)[:100]}: send it as it is")


class Sessions(SecureCookieSessionInterface):
    """Flask's sessions; where no cookie came, no signer is made that would check it."""

    def open_session(self, app: flask.Flask, request: flask.Request) -> SecureCookieSession | None:
        if "HTTP_COOKIE" not in request.environ or self.get_cookie_name(app) not in request.cookies:
            return self.session_class()
        return super().open_session(app, request)
