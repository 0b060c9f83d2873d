"""How a batch comes along, as server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.batches.openapi import EVENT_STREAM
from api.batches.routes import view_of
from api.batches.schemas import BatchPath
from api.http.handover import client_gone
from api.http.openapi.document import ERRORS
from api.http.principal import Principal, principal, requires
from api.http.services import Services, services
from shared.jobs.batch_schemas import BatchEnvelope
from shared.keys import Scope

blueprint = APIBlueprint(
    "batch_events", __name__, url_prefix="/v1", abp_tags=[Tag(name="batches")], abp_responses=ERRORS
)

EVERY_SECONDS = 0.5
#: Proxies close a connection on which nothing is said; a comment is something.
SILENCE_SECONDS = 10.0
#: When a client that found no room to wait connects again.
RETRY_MILLISECONDS = 2_000


@blueprint.get("/batches/<string:batch_id>/events", responses={"200": EVENT_STREAM})
@requires(Scope.JOBS_READ)
def batch_events(path: BatchPath) -> Response:
    """`progress` with the batch when its counts have changed, twice a second at most; `end` as soon as it is complete.

    The stream lasts as long as a `Prefer: wait` may, and ends after its first event while too many others wait; then
    connect again.
    """
    who = principal()
    service = services()
    first = view_of(service, who, path.batch_id)
    response = Response(_events(service, who, first, client_gone()), mimetype="text/event-stream")
    # A proxy that collects the answer before it passes it on would hold every event back.
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _events(service: Services, who: Principal, view: BatchEnvelope, gone: Callable[[], bool]) -> Iterator[str]:
    if not view.ended:
        with service.streams.slot(who.tenant_id) as granted:
            if granted:
                view = yield from _progress(service, who, view, gone)
            else:
                yield f"retry: {RETRY_MILLISECONDS}\n\n"
                yield _event("progress", view)
    if view.ended:
        yield _event("end", view)


def _progress(
    service: Services, who: Principal, view: BatchEnvelope, gone: Callable[[], bool]
) -> Generator[str, None, BatchEnvelope]:
    """Until the batch is complete, the time is over, or the client gone; the batch as it is then."""
    over = time.monotonic() + service.settings.max_wait_seconds
    yield _event("progress", view)
    spoken = time.monotonic()
    with service.listener.expecting(view.id) as ended:
        while not view.ended and time.monotonic() < over and not gone():
            ended.wait(EVERY_SECONDS)
            told, view = view, view_of(service, who, view.id)
            if not view.ended and view != told:
                spoken = time.monotonic()
                yield _event("progress", view)
            elif time.monotonic() - spoken >= SILENCE_SECONDS:
                spoken = time.monotonic()
                yield ": still here\n\n"
    return view


def _event(name: str, view: BatchEnvelope) -> str:
    return f"event: {name}\ndata: {view.model_dump_json()}\n\n"
