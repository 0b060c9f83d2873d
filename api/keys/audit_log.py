"""The audit log: written by api/http/audit.py in the transactions of what it records, only ever added to, read here."""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.http.openapi.document import ERRORS
from api.http.paging import page_of
from api.http.principal import principal, requires
from api.http.responses import json_response
from api.http.services import services
from api.keys.schemas import AuditList, AuditQuery, AuditView
from shared.db.tables import AuditEntry
from shared.keys import Scope

blueprint = APIBlueprint("audit", __name__, url_prefix="/v1", abp_tags=[Tag(name="audit")], abp_responses=ERRORS)


@blueprint.get("/audit", responses={"200": AuditList})
@requires(Scope.ADMIN)
def list_audit(query: AuditQuery) -> Response:
    """List what was done to the tenant's studies, jobs, batches, keys and endpoints, newest first, in pages."""
    who = principal()
    wanted = sa.select(AuditEntry).where(AuditEntry.tenant_id == who.tenant_id)
    for column, value in (
        (AuditEntry.actor, query.actor),
        (AuditEntry.action, query.action),
        (AuditEntry.subject, query.subject),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    with services().database.transaction() as session:
        rows, cursor = page_of(session, wanted, AuditEntry.id, query.cursor, query.limit)
        data = [AuditView.model_validate(entry, from_attributes=True) for entry in rows]
    return json_response(AuditList(data=data, next_cursor=cursor))
