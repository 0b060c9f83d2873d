"""Model bundles: which ones answer, and their cards."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.context import principal, services
from api.openapi import ERRORS
from api.schemas import ModelList, ModelView
from shared.keys import Scope
from shared.models import ModelBundle, Worker

blueprint = APIBlueprint("models", __name__, url_prefix="/v1", abp_tags=[Tag(name="models")], abp_responses=ERRORS)


@blueprint.get("/models", responses={"200": ModelList})
def list_models() -> Response:
    """Every bundle that is stored or has answered here, with its card: what it is, how well it does, where it stops."""
    principal(Scope.MODELS_READ)
    service = services()
    fresh = Worker.seen_at > sa.func.now() - timedelta(seconds=service.settings.lease_seconds)
    with service.database.transaction() as session:
        serving = set(session.scalars(sa.select(Worker.bundle_sha256).where(fresh)))
        bundles = session.scalars(sa.select(ModelBundle).order_by(ModelBundle.first_seen_at.desc())).all()
    data = [
        ModelView(
            name=bundle.name,
            version=bundle.version,
            sha256=bundle.sha256,
            active=bundle.active,
            serving=bundle.sha256 in serving,
            card=bundle.card,
        )
        for bundle in bundles
    ]
    return jsonify(ModelList(data=data).model_dump(mode="json"))
