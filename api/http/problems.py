"""Every error a client sees: RFC 9457 problem+json, its types documented at /problems from the classes themselves."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import structlog
from flask import Flask, Response, g, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from api.http.validation import field_errors, pointer
from shared.errors import (
    BadRequest,
    CompressedBody,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ThoraqError,
    Unauthenticated,
    UnsupportedMediaType,
)

log = structlog.get_logger(__name__)

BY_STATUS: dict[int, type[ThoraqError]] = {
    400: BadRequest,
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
}
#: What is said where the HTTP library refuses a request, and does not say why in words for clients.
DETAILS: dict[type[ThoraqError], str] = {
    BadRequest: "the request, or the JSON in it, is not well-formed",
    NotFound: "there is nothing at this path",
    MethodNotAllowed: "the path does not take {method}",
    PayloadTooLarge: "the body, or a part of it, is larger than is taken here",
    UnsupportedMediaType: "the Content-Type is not one that is taken here",
}


def problem_types() -> Iterator[type[ThoraqError]]:
    """Every class of shared/errors.py that has a type of its own, in its order: what clients may see."""
    seen = set()
    waiting = [ThoraqError]
    while waiting:
        kind = waiting.pop(0)
        if kind.type not in seen and kind.__module__ == ThoraqError.__module__:
            seen.add(kind.type)
            yield kind
        waiting.extend(kind.__subclasses__())


def body(error: ThoraqError) -> dict[str, Any]:
    """Return the problem document (RFC 9457, section 3)."""
    return {
        "type": f"{request.url_root}problems#{error.type}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": f"urn:request:{g.get('request_id', '')}",
        **error.extensions,
        **_pointed(error),
    }


def _pointed(error: ThoraqError) -> dict[str, Any]:
    """Wrong fields that have no pointer yet, with one."""
    errors = error.extensions.get("errors")
    return (
        {"errors": [{"pointer": pointer([one["field"]]), **one} for one in errors]} if isinstance(errors, list) else {}
    )


def respond(error: ThoraqError) -> Response:
    """Return the error as a response."""
    response = jsonify(body(error))
    response.status_code = error.status
    response.mimetype = "application/problem+json"
    if (seconds := error.extensions.get("retry_after", error.retry_after)) is not None:
        response.headers["Retry-After"] = str(seconds)
    if isinstance(error, CompressedBody):
        response.headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="thoraq"'
    return response


def invalid(error: ValidationError) -> InvalidRequest:
    """Which fields are wrong and why; never what they held."""
    return InvalidRequest("some fields are not valid", errors=field_errors(error))


def _from_http(error: HTTPException) -> Response:
    kind = BY_STATUS.get(error.code or 500)
    if kind is None and error.code is not None and error.code < 400:
        return Response(error.get_response().get_data(), error.code, list(error.get_headers()))
    known = kind or (BadRequest if (error.code or 500) < 500 else ThoraqError)
    response = respond(known(DETAILS.get(known, "").format(method=request.method)))
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers[name] = value
    return response


def _where(error: BaseException) -> str:
    """Return stack and causes without their messages: a driver quotes values there, and they may be a patient's."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__ or error.__context__
    return f"{type(error).__name__}\n{frames}" + (f"caused by {_where(cause)}" if cause else "")


def _from_anything(error: Exception) -> Response:
    log.error("request.failed", error=type(error).__name__, where=_where(error))
    return respond(ThoraqError())


def _from_ours(error: ThoraqError) -> Response:
    if error.status >= 500:
        log.error("request.unavailable", error=error.type, detail=error.detail, where=_where(error))
    return respond(error)


def install(app: Flask) -> None:
    """Answer every exception of the application as a problem."""
    app.register_error_handler(ThoraqError, _from_ours)
    app.register_error_handler(ValidationError, lambda error: respond(invalid(error)))
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(Exception, _from_anything)
