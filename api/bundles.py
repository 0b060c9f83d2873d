"""Model bundles: which ones answer, which one is to, and their cards."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import sqlalchemy as sa
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.http.audit import record
from api.http.openapi.document import ERRORS
from api.http.principal import principal, requires
from api.http.responses import json_response
from api.http.services import Services, services
from shared import bundle_registry
from shared.db.tables import ModelBundle, Worker
from shared.errors import Conflict, ModelError, NotFound
from shared.inference import bundle_store
from shared.keys import Scope

blueprint = APIBlueprint("models", __name__, url_prefix="/v1", abp_tags=[Tag(name="models")], abp_responses=ERRORS)


class ModelView(BaseModel):
    """A model bundle and its card; `serving`: a live worker answers with it; `active`: all workers are to."""

    name: str
    version: str
    sha256: str
    active: bool
    serving: bool
    card: dict[str, Any]


class ModelPath(BaseModel):
    """A bundle's SHA-256 in the path."""

    sha256: str


class ModelList(BaseModel):
    """The bundles that were stored or have answered, newest first."""

    object: Literal["list"] = "list"
    data: list[ModelView]


@blueprint.get("/models", responses={"200": ModelList})
@requires(Scope.MODELS_READ)
def list_models() -> Response:
    """Every bundle that is stored or has answered here, with its card: what it is, how well it does, where it stops."""
    service = services()
    with service.database.transaction() as session:
        serving = _serving(session, service)
        bundles = session.scalars(sa.select(ModelBundle).order_by(ModelBundle.first_seen_at.desc())).all()
    data = [_view(bundle, serving) for bundle in bundles]
    return json_response(ModelList(data=data))


@blueprint.post("/models/<string:sha256>/activate", responses={"200": ModelView})
@requires(Scope.MODELS_MANAGE)
def activate_model(path: ModelPath) -> Response:
    """Have the workers serve a bundle that was pushed: for every tenant, hence `admin` alone does not suffice.

    Activating the active one again has workers that refused it try at once.
    """
    who = principal()
    service = services()
    with service.database.transaction() as session:
        _check_stored(session.get(ModelBundle, path.sha256))
    try:
        bundle_store.check(path.sha256, service.storage)
    except ModelError as error:
        raise Conflict("the bundle is damaged in the object store: push it again") from error
    with service.database.transaction() as session:
        bundle_registry.activate(session, path.sha256)
        record(session, who, "model.activate", path.sha256)
        view = _view(session.get_one(ModelBundle, path.sha256), _serving(session, service))
    return json_response(view)


def _check_stored(bundle: ModelBundle | None) -> None:
    if bundle is None:
        raise NotFound("no such model bundle")
    if not bundle.stored:
        raise Conflict("the bundle is not in the object store: push it first")


def _serving(session: Session, service: Services) -> set[str | None]:
    """Return the bundles that live workers answer with."""
    fresh = Worker.seen_at > sa.func.now() - timedelta(seconds=service.settings.lease_seconds)
    return set(session.scalars(sa.select(Worker.bundle_sha256).where(fresh)))


def _view(bundle: ModelBundle, serving: set[str | None]) -> ModelView:
    return ModelView(
        name=bundle.name,
        version=bundle.version,
        sha256=bundle.sha256,
        active=bundle.active,
        serving=bundle.sha256 in serving,
        card=bundle.card,
    )
