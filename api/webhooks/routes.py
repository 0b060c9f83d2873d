"""Webhook endpoints and what was delivered to them."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session, joinedload, selectinload

from api.http.audit import record
from api.http.idempotency import claim_idempotency_key, with_location
from api.http.openapi.document import ERRORS, IDEMPOTENCY_KEY
from api.http.paging import page_of
from api.http.principal import Principal, principal, requires
from api.http.responses import json_response
from api.http.schemas import PageQuery
from api.http.services import Services, services
from api.uploads.receive import fingerprint
from api.webhooks.lookup import delivery_view, endpoint_view, find_delivery, find_endpoint
from api.webhooks.schemas import (
    DeliveryList,
    DeliveryPath,
    DeliveryView,
    EndpointList,
    EndpointPath,
    EndpointRequest,
    EndpointSecretView,
    EndpointUpdate,
    EndpointView,
    Replay,
    ReplayRequest,
)
from shared.db.tables import Delivery, DeliveryState, EventType, WebhookEndpoint
from shared.doorbell import DELIVER, ring
from shared.errors import Conflict, TooManyEndpoints
from shared.ids import new_id
from shared.keys import Scope
from shared.webhooks.destinations import resolve
from shared.webhooks.outbox import record_event, schedule
from shared.webhooks.replays import MOST, replay
from shared.webhooks.signing import new_secret

blueprint = APIBlueprint("webhooks", __name__, url_prefix="/v1", abp_tags=[Tag(name="webhooks")], abp_responses=ERRORS)

# Long enough to deploy the new secret at every receiver.
OLD_SECRET_LIVES = timedelta(hours=24)


def _check_url(service: Services, url: str) -> None:
    settings = service.settings
    resolve(url, allow_http=settings.webhook_allow_http, allowed=settings.webhook_allowed_networks)


def _with_secret(endpoint: WebhookEndpoint, secret: str | None, status: int) -> Response:
    view = EndpointSecretView(**endpoint_view(endpoint).model_dump(), secret=secret)
    return json_response(view, status, secret=True)


def _add_endpoint(
    session: Session, who: Principal, body: EndpointRequest, endpoint_id: str, most: int
) -> WebhookEndpoint:
    """Each event is sent to each of a tenant's endpoints: without a bound one tenant makes work without end."""
    theirs = sa.select(sa.func.count()).select_from(WebhookEndpoint)
    if session.scalars(theirs.where(WebhookEndpoint.tenant_id == who.tenant_id)).one() >= most:
        raise TooManyEndpoints(f"a tenant has {most} webhook endpoints at most")
    endpoint = WebhookEndpoint(
        id=endpoint_id,
        tenant_id=who.tenant_id,
        url=body.url,
        events=[str(event) for event in body.events],
        description=body.description,
        include_labels=body.include_labels,
        secret=new_secret(),
    )
    session.add(endpoint)
    record(session, who, "webhook.create", endpoint.id)
    session.flush()
    session.refresh(endpoint)
    return endpoint


@blueprint.post(
    "/webhook-endpoints",
    responses={"201": EndpointSecretView},
    openapi_extensions={"parameters": [IDEMPOTENCY_KEY]},
)
@requires(Scope.WEBHOOKS_MANAGE)
def create_endpoint(body: EndpointRequest) -> Response:
    """Subscribe a URL to events. The signing secret is in this answer alone: who misses it rotates it."""
    who = principal()
    service = services()
    _check_url(service, body.url)
    with service.database.transaction() as session:
        endpoint_id = new_id("whe")
        first = claim_idempotency_key(session, who, fingerprint(body.model_dump()), endpoint_id)
        most = service.settings.max_webhook_endpoints
        endpoint = find_endpoint(session, who, first) if first else _add_endpoint(session, who, body, endpoint_id, most)
    location = f"/v1/webhook-endpoints/{endpoint.id}"
    # Another key of the tenant may send the same request again.
    secret = endpoint.secret if first is None else None
    return with_location(_with_secret(endpoint, secret, 201), location, replayed=first is not None)


@blueprint.get("/webhook-endpoints", responses={"200": EndpointList})
@requires(Scope.WEBHOOKS_MANAGE)
def list_endpoints(query: PageQuery) -> Response:
    """List the tenant's endpoints, newest first."""
    who = principal()
    wanted = sa.select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == who.tenant_id)
    with services().database.transaction() as session:
        rows, cursor = page_of(session, wanted, WebhookEndpoint.id, query.cursor, query.limit)
    data = [endpoint_view(endpoint) for endpoint in rows]
    return json_response(EndpointList(data=data, next_cursor=cursor))


@blueprint.get("/webhook-endpoints/<string:endpoint_id>", responses={"200": EndpointView})
@requires(Scope.WEBHOOKS_MANAGE)
def get_endpoint(path: EndpointPath) -> Response:
    """Return an endpoint."""
    who = principal()
    with services().database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id)
    return json_response(endpoint_view(endpoint))


@blueprint.patch("/webhook-endpoints/<string:endpoint_id>", responses={"200": EndpointView})
@requires(Scope.WEBHOOKS_MANAGE)
def update_endpoint(path: EndpointPath, body: EndpointUpdate) -> Response:
    """Change an endpoint, or switch it off and on."""
    who = principal()
    service = services()
    if body.url is not None:
        _check_url(service, body.url)
    with service.database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id)
        if body.url is not None:
            endpoint.url = body.url
        if body.events is not None:
            endpoint.events = [str(event) for event in body.events]
        if body.description is not None:
            endpoint.description = body.description
        if body.enabled is not None:
            endpoint.enabled = body.enabled
            endpoint.disabled_reason = None if body.enabled else "disabled by request"
            endpoint.failing_since = None
        record(session, who, "webhook.update", endpoint.id)
    return json_response(endpoint_view(endpoint))


@blueprint.delete("/webhook-endpoints/<string:endpoint_id>", responses={"204": None})
@requires(Scope.WEBHOOKS_MANAGE)
def delete_endpoint(path: EndpointPath) -> Response:
    """Remove an endpoint and its deliveries."""
    who = principal()
    with services().database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id)
        session.delete(endpoint)
        record(session, who, "webhook.delete", endpoint.id)
    return Response(status=204)


@blueprint.post("/webhook-endpoints/<string:endpoint_id>/rotate-secret", responses={"200": EndpointSecretView})
@requires(Scope.WEBHOOKS_MANAGE)
def rotate_secret(path: EndpointPath) -> Response:
    """Make a new secret. For a day both sign every delivery, so receivers can change over without a gap."""
    who = principal()
    with services().database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id)
        endpoint.previous_secret = endpoint.secret
        endpoint.previous_secret_until = sa.func.now() + OLD_SECRET_LIVES
        endpoint.secret = new_secret()
        record(session, who, "webhook.rotate-secret", endpoint.id)
    return _with_secret(endpoint, endpoint.secret, 200)


@blueprint.post("/webhook-endpoints/<string:endpoint_id>/test", responses={"202": DeliveryView})
@requires(Scope.WEBHOOKS_MANAGE)
def test_endpoint(path: EndpointPath) -> Response:
    """Send a `test` event to this endpoint, whatever it subscribes to."""
    who = principal()
    service = services()
    with service.database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id, keep=True)
        if not endpoint.enabled:
            raise Conflict("the endpoint is disabled")
        event = record_event(session, who.tenant_id, EventType.TEST, {"endpoint_id": endpoint.id})
        delivery_id = schedule(session, event, endpoint).id
        record(session, who, "webhook.test", endpoint.id)
    return _delivery_under_way(service, who, delivery_id)


@blueprint.get("/webhook-endpoints/<string:endpoint_id>/deliveries", responses={"200": DeliveryList})
@requires(Scope.WEBHOOKS_MANAGE)
def list_deliveries(path: EndpointPath, query: PageQuery) -> Response:
    """Return what was sent to an endpoint, newest first, with every attempt."""
    who = principal()
    with services().database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id)
        wanted = sa.select(Delivery).where(Delivery.endpoint_id == endpoint.id)
        wanted = wanted.options(joinedload(Delivery.event), selectinload(Delivery.attempts))
        rows, cursor = page_of(session, wanted, Delivery.id, query.cursor, query.limit)
        data = [delivery_view(delivery) for delivery in rows]
    return json_response(DeliveryList(data=data, next_cursor=cursor))


@blueprint.post("/webhook-endpoints/<string:endpoint_id>/replay", responses={"202": Replay})
@requires(Scope.WEBHOOKS_MANAGE)
def replay_missed(path: EndpointPath, body: ReplayRequest) -> Response:
    """Send what the endpoint missed since a time: what failed, and what happened while it was switched off.

    Every event has the id that it had, so a receiver that got it after all knows it again.
    """
    who = principal()
    service = services()
    with service.database.transaction() as session:
        endpoint = find_endpoint(session, who, path.endpoint_id, keep=True)
        if not endpoint.enabled:
            raise Conflict("the endpoint is disabled")
        scheduled = replay(session, endpoint, body.since, delivered=body.delivered)
        record(session, who, "webhook.replay", endpoint.id)
    ring(service.settings, DELIVER)
    view = Replay(endpoint_id=path.endpoint_id, scheduled=scheduled, more=scheduled == MOST)
    return json_response(view, 202)


@blueprint.post("/deliveries/<string:delivery_id>/redeliver", responses={"202": DeliveryView})
@requires(Scope.WEBHOOKS_MANAGE)
def redeliver(path: DeliveryPath) -> Response:
    """Send an event again, with the same id, through the whole schedule of retries; a pending one is sent now."""
    who = principal()
    service = services()
    with service.database.transaction() as session:
        # Locked first and alone: PostgreSQL locks no rows of the outer join that loads the event.
        mine = sa.select(Delivery.id).where(Delivery.id == path.delivery_id, Delivery.tenant_id == who.tenant_id)
        session.execute(mine.with_for_update())
        delivery = find_delivery(session, who, path.delivery_id)
        if not find_endpoint(session, who, delivery.endpoint_id).enabled:
            raise Conflict("the endpoint is disabled")
        if delivery.lease_token is None:  # else it is being sent at this moment
            delivery.state, delivery.round_start = DeliveryState.PENDING, delivery.attempt_count
            delivery.next_attempt_at, delivery.finished_at = sa.func.now(), None
        record(session, who, "webhook.redeliver", delivery.id)
    return _delivery_under_way(service, who, path.delivery_id)


def _delivery_under_way(service: Services, who: Principal, delivery_id: str) -> Response:
    with service.database.transaction() as session:
        view = delivery_view(find_delivery(session, who, delivery_id))
    ring(service.settings, DELIVER)
    return json_response(view, 202)
