"""The tenant's API keys. A key itself is in the answer that made it, and nowhere else."""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session

from api.http.idempotency import claim_idempotency_key, with_location
from api.http.openapi.document import ERRORS, IDEMPOTENCY_KEY
from api.http.paging import page_of
from api.http.principal import Principal, principal, requires
from api.http.responses import json_response
from api.http.schemas import PageQuery
from api.http.services import services
from api.keys.schemas import KeyList, KeyPath, KeyRequest, KeySecretView, KeyView
from api.uploads.receive import fingerprint
from shared import keys
from shared.db.lookup import existing
from shared.db.tables import ApiKey, Tenant
from shared.errors import Forbidden
from shared.ids import new_id
from shared.keys import Scope

blueprint = APIBlueprint("keys", __name__, url_prefix="/v1", abp_tags=[Tag(name="keys")], abp_responses=ERRORS)


@blueprint.post("/keys", responses={"201": KeySecretView}, openapi_extensions={"parameters": [IDEMPOTENCY_KEY]})
@requires(Scope.ADMIN)
def create_key(body: KeyRequest) -> Response:
    """Make a key. It is shown now and never again: the same request sent again gets what it made without the key."""
    who = principal()
    for scope in body.scopes:
        if not who.has(scope):
            raise Forbidden(f"a key without the scope {scope.value} can give it to no other")
    key_id, secret = new_id("key"), None
    with services().database.transaction() as session:
        first = claim_idempotency_key(session, who, fingerprint(body.model_dump()), key_id)
        if first is None:
            tenant = session.get_one(Tenant, who.tenant_id)
            made = keys.create(session, tenant, body.name, body.scopes, body.expires_at, who.key_id, key_id)
            secret = made.key
            session.flush()
        view = _view(find_key(session, who, first or key_id))
    response = json_response(KeySecretView(**view.model_dump(), key=secret), 201, secret=True)
    return with_location(response, f"/v1/keys/{view.id}", replayed=first is not None)


@blueprint.get("/keys", responses={"200": KeyList})
@requires(Scope.ADMIN)
def list_keys(query: PageQuery) -> Response:
    """List the tenant's keys, newest first, those that have ended too; never the keys themselves."""
    who = principal()
    wanted = sa.select(ApiKey).where(ApiKey.tenant_id == who.tenant_id)
    with services().database.transaction() as session:
        rows, cursor = page_of(session, wanted, ApiKey.id, query.cursor, query.limit)
        data = [_view(key) for key in rows]
    return json_response(KeyList(data=data, next_cursor=cursor))


@blueprint.get("/keys/<string:key_id>", responses={"200": KeyView})
@requires(Scope.ADMIN)
def get_key(path: KeyPath) -> Response:
    """Return a key: what it may do, and when it was used last."""
    who = principal()
    with services().database.transaction() as session:
        view = _view(find_key(session, who, path.key_id))
    return json_response(view)


@blueprint.post("/keys/<string:key_id>/revoke", responses={"200": KeyView})
@requires(Scope.ADMIN)
def revoke_key(path: KeyPath) -> Response:
    """End a key, and the sessions of the page that it opened. Again: nothing changes.

    A process that has seen the key a moment ago takes it for another THORAQ_KEY_SECONDS.
    """
    who = principal()
    with services().database.transaction() as session:
        key = find_key(session, who, path.key_id)
        if keys.revoke(session, key.id, who.key_id):
            session.refresh(key)
        view = _view(key)
    return json_response(view)


def find_key(session: Session, who: Principal, key_id: str) -> ApiKey:
    """Find the tenant's key, or NotFound."""
    return existing(
        session.scalar(sa.select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == who.tenant_id)), "key"
    )


def _view(key: ApiKey) -> KeyView:
    return KeyView.model_validate(key, from_attributes=True)
