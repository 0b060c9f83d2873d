"""The audit log: written by api/http/audit.py in the transactions of what it records, only ever added to, read here."""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.http.openapi.document import ERRORS
from api.http.principal import principal
from api.http.services import services
from api.keys.schemas import AuditList, AuditQuery, AuditView
from shared.db.tables import AuditEntry
from shared.keys import Scope

blueprint = APIBlueprint("audit", __name__, url_prefix="/v1", abp_tags=[Tag(name="audit")], abp_responses=ERRORS)


@blueprint.get("/audit", responses={"200": AuditList})
def list_audit(query: AuditQuery) -> Response:
    """What was done to the tenant's studies, jobs, batches, keys and endpoints, newest first, a page at a time."""
    who = principal(Scope.ADMIN)
    wanted = sa.select(AuditEntry).where(AuditEntry.tenant_id == who.tenant_id).order_by(AuditEntry.id.desc())
    for column, value in (
        (AuditEntry.actor, query.actor),
        (AuditEntry.action, query.action),
        (AuditEntry.subject, query.subject),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    if query.cursor is not None:
        wanted = wanted.where(AuditEntry.id < query.cursor)
    with services().database.transaction() as session:
        found = session.scalars(wanted.limit(query.limit + 1)).all()
        data = [AuditView.model_validate(entry, from_attributes=True) for entry in found[: query.limit]]
    cursor = data[-1].id if len(found) > query.limit else None
    return jsonify(AuditList(data=data, next_cursor=cursor).model_dump(mode="json"))
