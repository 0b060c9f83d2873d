"""Shapes as answers to requests; a job or a batch is not sent again to a client that has it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flask import Response, jsonify, request
from pydantic import BaseModel

from shared.jobs.batch_schemas import BatchEnvelope
from shared.jobs.schemas import JobEnvelope


def json_response(shape: BaseModel, status: int = 200, *, secret: bool = False) -> Response:
    """Return a shape as JSON; a `secret` is kept in no cache."""
    response = jsonify(shape.model_dump(mode="json", by_alias=True))
    response.status_code = status
    if secret:
        response.headers["Cache-Control"] = "no-store"
    return response


@dataclass(frozen=True)
class Answer:
    """An envelope as bytes of JSON, ready to be sent."""

    body: bytes
    etag: str
    terminal: bool


def answer_of(envelope: JobEnvelope | BatchEnvelope) -> Answer:
    """Return the envelope, made ready."""
    body = envelope.model_dump_json().encode()
    return Answer(body, hashlib.sha256(body).hexdigest()[:32], envelope.ended)


def respond(answer: Answer, status: int = 200) -> Response:
    """Return the answer with its ETag, and when to look again if it is not terminal.

    It has no body if the client has it already.
    """
    known = status == 200 and request.method == "GET" and request.if_none_match.contains_weak(answer.etag)
    # All at once: a header that is set is compared with those that are there, one by one.
    headers = [("ETag", f'"{answer.etag}"'), ("Cache-Control", "private, no-cache")]
    if not answer.terminal:
        headers.append(("Retry-After", "1"))
    response = Response(b"" if known else answer.body, 304 if known else status, headers, mimetype="application/json")
    if known:
        del response.headers["Content-Type"], response.headers["Content-Length"]
    return response
