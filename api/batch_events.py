"""How a batch comes along, as server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.batch_openapi import EVENT_STREAM
from api.batches import find_batch
from api.context import Principal, Services, principal, services
from api.openapi import ERRORS
from api.schemas import BatchPath
from shared.envelope import BatchEnvelope, batch_envelope
from shared.keys import Scope

blueprint = APIBlueprint(
    "batch_events", __name__, url_prefix="/v1", abp_tags=[Tag(name="batches")], abp_responses=ERRORS
)

EVERY_SECONDS = 0.5
#: Proxies close a connection on which nothing is said; a comment is something.
SILENCE_SECONDS = 10.0


@blueprint.get("/batches/<string:batch_id>/events", responses={"200": EVENT_STREAM})
def batch_events(path: BatchPath) -> Response:
    """`progress` with the batch when its counts have changed, at most twice a second; `end` when it is complete.

    The stream lasts as long as a `Prefer: wait` may; then connect again.
    """
    who = principal(Scope.JOBS_READ)
    service = services()
    first = _look(service, who, path.batch_id)
    response = Response(_events(service, who, first), mimetype="text/event-stream")
    # A proxy that collects the answer before it passes it on would hold every event back.
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _look(service: Services, who: Principal, batch_id: str) -> BatchEnvelope:
    with service.database.transaction() as session:
        return batch_envelope(find_batch(session, who, batch_id))


def _events(service: Services, who: Principal, view: BatchEnvelope) -> Iterator[str]:
    over = time.monotonic() + service.settings.max_wait_seconds
    while view.completed_at is None:
        yield f"event: progress\ndata: {view.model_dump_json()}\n\n"
        told, spoken = view, time.monotonic()
        while view == told:
            if time.monotonic() >= over:
                return
            if time.monotonic() - spoken >= SILENCE_SECONDS:
                spoken = time.monotonic()
                yield ": still here\n\n"
            time.sleep(EVERY_SECONDS)
            view = _look(service, who, view.id)
    yield f"event: end\ndata: {view.model_dump_json()}\n\n"
