"""Batches: many files, each a study and a job of its own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
import structlog
from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session

from api.context import Principal, principal, services
from api.idempotency import earlier, located
from api.jobs import check_supported
from api.openapi import ERRORS, form_body
from api.schemas import BatchForm, BatchPath
from api.uploads import Received, add_study, discard, fingerprint, received, sent_fields, sent_files, settle_modality
from shared import jobs, metrics
from shared.envelope import BatchEnvelope, batch_envelope
from shared.errors import ImageError, InvalidRequest, NotFound
from shared.ids import new_id
from shared.jobs import problem_of
from shared.keys import Scope
from shared.models import AuditEntry, Batch
from shared.queue import CLASSIFY, ring

blueprint = APIBlueprint("batches", __name__, url_prefix="/v1", abp_tags=[Tag(name="batches")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)


@blueprint.post("/batches", responses={"202": BatchEnvelope}, openapi_extensions=form_body(BatchForm))
def submit_batch() -> Response:
    """Classify many files; each becomes a study and a job, and a bad one is listed in `rejected`."""
    who = principal(Scope.JOBS_WRITE)
    files = sent_files()
    form = BatchForm.model_validate(sent_fields())
    service = services()
    with received(service, who, files) as taken:
        batch_id, unused = new_id("bat"), taken
        with service.database.transaction() as session:
            first = earlier(session, who, fingerprint(form.model_dump(), taken), batch_id)
            if first is None:
                unused = _add_batch(session, who, form, taken, batch_id)
        discard(service, unused)
    ring(service.settings, CLASSIFY)
    log.info("batch.submitted", batch_id=first or batch_id, files=len(files))
    with service.database.transaction() as session:
        view = batch_envelope(_find(session, who, first or batch_id))
    response = jsonify(view.model_dump(mode="json"))
    response.status_code = 202
    response.headers["Retry-After"] = "1"
    return located(response, f"/v1/batches/{view.id}", replayed=first is not None)


@blueprint.get("/batches/<string:batch_id>", responses={"200": BatchEnvelope})
def get_batch(path: BatchPath) -> Response:
    """A batch and the counts of its jobs; the jobs themselves: `GET /v1/jobs?batch_id=`."""
    who = principal(Scope.JOBS_READ)
    with services().database.transaction() as session:
        view = batch_envelope(_find(session, who, path.batch_id))
    response = jsonify(view.model_dump(mode="json"))
    if view.completed_at is None:
        response.headers["Retry-After"] = "1"
    return response


def _find(session: Session, who: Principal, batch_id: str) -> Batch:
    batch = session.scalar(sa.select(Batch).where(Batch.id == batch_id, Batch.tenant_id == who.tenant_id))
    if batch is None:
        raise NotFound("no such batch")
    return batch


def _add_batch(
    session: Session, who: Principal, form: BatchForm, taken: list[Received], batch_id: str
) -> list[Received]:
    """The rows of the batch; the files that are in none of them."""
    rejected: list[dict[str, Any]] = []
    batch = Batch(id=batch_id, tenant_id=who.tenant_id, external_id=form.external_id, total=len(taken))
    session.add(batch)
    session.flush()
    for number, one in enumerate(taken):
        problem = _add_item(session, who, form, one, batch_id)
        if problem is not None:
            rejected.append({"file": number, "problem": problem_of(problem)})
    batch.rejected = rejected
    if len(rejected) == len(taken):
        raise InvalidRequest("no file of the batch can be classified", rejected=rejected)
    session.add(AuditEntry(tenant_id=who.tenant_id, actor=who.key_id, action="batch.submit", subject=batch_id))
    return [taken[item["file"]] for item in rejected]


def _add_item(
    session: Session, who: Principal, form: BatchForm, one: Received, batch_id: str
) -> ImageError | InvalidRequest | None:
    """One study and its job, or why not."""
    if one.error is not None:
        return one.error
    try:
        modality = settle_modality([one], form.modality)
        check_supported(form.classifier, modality)
    except InvalidRequest as error:
        return error
    study = add_study(session, who, [one], modality, None, {})
    jobs.submit(
        session,
        job_id=new_id("job"),
        study=study,
        classifier=form.classifier,
        priority=form.priority,
        external_id=None,
        metadata={},
        batch_id=batch_id,
    )
    metrics.JOBS_SUBMITTED.labels(form.classifier, form.priority).inc()
    return None
