"""Jobs: submit, poll, list, cancel."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any

import sqlalchemy as sa
import structlog
from flask import Response, jsonify, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session, joinedload
from werkzeug.http import parse_dict_header

from api.context import Principal, Services, principal, services
from api.idempotency import earlier, located
from api.openapi import ERRORS, form_body
from api.requests import MULTIPART
from api.schemas import JobForm, JobList, JobPath, JobQuery, JobRequest
from api.studies import find_study
from api.uploads import (
    add_study,
    discard,
    fingerprint,
    received,
    refuse_if_all_bad,
    sent_fields,
    sent_files,
    settle_modality,
)
from shared import jobs, metrics, schedule
from shared.envelope import JobEnvelope, job_envelope
from shared.errors import BadRequest, InvalidRequest, NotFound, UnsupportedMediaType
from shared.ids import new_id
from shared.keys import Scope
from shared.models import TERMINAL, AuditEntry, Classifier, Job, JobState, Modality, Result, Study
from shared.queue import CLASSIFY, DELIVER, ring
from shared.webhooks import deliveries_scheduled

blueprint = APIBlueprint("jobs", __name__, url_prefix="/v1", abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)

WHOLE = (joinedload(Job.study), joinedload(Job.result).joinedload(Result.bundle))


def check_supported(classifier: Classifier, modality: Modality) -> None:
    """The ensemble was trained on X-rays only."""
    if classifier is Classifier.ENSEMBLE and modality is Modality.CT:
        message = "the ensemble classifies X-rays only; use `binary` for CT"
        raise InvalidRequest(message, errors=[{"field": "classifier", "message": message}])


def enqueue(
    session: Session, who: Principal, study: Study, asked: JobForm | JobRequest, job_id: str, metadata: dict[str, Any]
) -> Job:
    """The job's row and its audit entry, in the caller's transaction."""
    check_supported(asked.classifier, study.modality)
    job = jobs.submit(
        session,
        job_id=job_id,
        study=study,
        classifier=asked.classifier,
        priority=asked.priority,
        external_id=asked.external_id or study.external_id,
        metadata=metadata,
    )
    session.add(AuditEntry(tenant_id=who.tenant_id, actor=who.key_id, action="job.submit", subject=job_id))
    return job


def read_job(service: Services, who: Principal, job_id: str) -> JobEnvelope:
    """The tenant's job as clients see it, with its place in line while it is queued; NotFound otherwise."""
    with service.database.transaction() as session:
        mine = sa.select(Job).where(Job.id == job_id, Job.tenant_id == who.tenant_id).options(*WHOLE)
        job = session.scalar(mine)
        if job is None:
            raise NotFound("no such job")
        envelope = job_envelope(job)
        if job.state is JobState.QUEUED:
            envelope.position, envelope.estimated_wait_seconds = schedule.place_in_line(session, job)
    return envelope


def wait_seconds(service: Services) -> float:
    """What `Prefer: wait=N` asks for, within the limit; 0 without it."""
    preferences = parse_dict_header(request.headers.get("Prefer", ""))
    value = next((value for name, value in preferences.items() if name.lower() == "wait"), None)
    if value is None:
        return 0
    # Digits alone (RFC 7240, 4.3: delta-seconds): `float` would take `nan`, and waiting for that never ends.
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise BadRequest("Prefer: wait takes a whole number of seconds")
    return min(int(value), service.settings.max_wait_seconds)


def wait_for(service: Services, who: Principal, job_id: str, seconds: float) -> JobEnvelope:
    """The job, once it is terminal or the time is over."""
    began = time.monotonic()
    while True:
        envelope = read_job(service, who, job_id)
        waited = time.monotonic() - began
        if envelope.status in TERMINAL or waited >= seconds:
            return envelope
        # At most a tenth later than it could be; for a job that takes long, half a second.
        time.sleep(min(max(0.02, waited / 10), 0.5, seconds - waited))


def job_response(envelope: JobEnvelope, status: int) -> Response:
    """An envelope with its ETag, and when to look again if it is not terminal."""
    response = jsonify(envelope.model_dump(mode="json"))
    response.status_code = status
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, no-cache"
    if envelope.status not in TERMINAL:
        response.headers["Retry-After"] = "1"
    return response


@blueprint.post(
    "/jobs",
    responses={"202": JobEnvelope, "200": JobEnvelope},
    openapi_extensions=form_body(JobForm, JobRequest, waits=True),
)
def submit_job() -> Response:
    """Classify a study: send its files, or name one that is stored.

    202 with the queued job. With `Prefer: wait=N`, 200 with the terminal one if it takes no longer.
    """
    who = principal(Scope.JOBS_WRITE)
    service = services()
    seconds = wait_seconds(service)  # refused before anything is made
    if request.mimetype == MULTIPART:
        job_id, replayed = _submit_files(service, who)
    elif request.mimetype == "application/json":
        job_id, replayed = _submit_stored(service, who)
    else:
        raise UnsupportedMediaType("send multipart/form-data with files, or application/json with a study_id")
    ring(service.settings, CLASSIFY)
    envelope = wait_for(service, who, job_id, seconds)
    response = job_response(envelope, 200 if seconds and envelope.status in TERMINAL else 202)
    return located(response, f"/v1/jobs/{job_id}", replayed=replayed)


def _submit_files(service: Services, who: Principal) -> tuple[str, bool]:
    files = sent_files()
    form = JobForm.model_validate(sent_fields())
    with received(service, who, files) as taken:
        refuse_if_all_bad(taken)
        modality = settle_modality(taken, form.modality)
        check_supported(form.classifier, modality)
        job_id = new_id("job")
        with service.database.transaction() as session:
            first = earlier(session, who, fingerprint(form.model_dump(), taken), job_id)
            if first is None:
                study = add_study(session, who, taken, modality, form.external_id, form.metadata)
                enqueue(session, who, study, form, job_id, form.metadata)
        if first is not None:
            discard(service, taken)
            return first, True
    _note(job_id, form.classifier, form.priority)
    return job_id, False


def _submit_stored(service: Services, who: Principal) -> tuple[str, bool]:
    asked = JobRequest.model_validate(request.get_json())
    job_id = new_id("job")
    with service.database.transaction() as session:
        study = find_study(session, who, asked.study_id)
        first = earlier(session, who, fingerprint(asked.model_dump()), job_id)
        if first is None:
            enqueue(session, who, study, asked, job_id, study.extra if asked.metadata is None else asked.metadata)
    if first is None:
        _note(job_id, asked.classifier, asked.priority)
    return first or job_id, first is not None


def _note(job_id: str, classifier: str, priority: str) -> None:
    metrics.JOBS_SUBMITTED.labels(classifier, priority).inc()
    log.info("job.submitted", job_id=job_id, classifier=classifier, priority=priority)


@blueprint.get("/jobs/<string:job_id>", responses={"200": JobEnvelope, "304": None})
def get_job(path: JobPath) -> Response:
    """A job: its status, its place in line while it waits, its result when it succeeded.

    Polls cost little with `If-None-Match`; `Prefer: wait=N` answers when the job is terminal.
    """
    who = principal(Scope.JOBS_READ)
    service = services()
    envelope = wait_for(service, who, path.job_id, wait_seconds(service))
    return job_response(envelope, 200).make_conditional(request)  # type: ignore[return-value]


@blueprint.get("/jobs", responses={"200": JobList})
def list_jobs(query: JobQuery) -> Response:
    """The tenant's jobs, newest first, a page at a time."""
    who = principal(Scope.JOBS_READ)
    wanted = sa.select(Job).where(Job.tenant_id == who.tenant_id).options(*WHOLE).order_by(Job.id.desc())
    for column, value in (
        (Job.state, query.status),
        (Job.classifier, query.classifier),
        (Job.study_id, query.study_id),
        (Job.batch_id, query.batch_id),
        (Job.external_id, query.external_id),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    if query.cursor is not None:
        wanted = wanted.where(Job.id < query.cursor)
    with services().database.transaction() as session:
        found = session.scalars(wanted.limit(query.limit + 1)).all()
        data = [job_envelope(job) for job in found[: query.limit]]
    more = len(found) > query.limit
    return jsonify(JobList(data=data, next_cursor=data[-1].id if more else None).model_dump(mode="json"))


@blueprint.post("/jobs/<string:job_id>/cancel", responses={"200": JobEnvelope})
def cancel_job(path: JobPath) -> Response:
    """Withdraw a queued or running job. Cancelling it again changes nothing; a finished one is a conflict."""
    who = principal(Scope.JOBS_WRITE)
    service = services()
    with service.database.transaction() as session:
        jobs.cancel(session, who.tenant_id, path.job_id)
        session.add(AuditEntry(tenant_id=who.tenant_id, actor=who.key_id, action="job.cancel", subject=path.job_id))
        told = deliveries_scheduled(session)
    if told:
        ring(service.settings, DELIVER)
    log.info("job.cancelled", job_id=path.job_id)
    return job_response(read_job(service, who, path.job_id), 200)
