"""Jobs: submit, poll, list, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate

import sqlalchemy as sa
import structlog
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session, load_only
from structlog.contextvars import bind_contextvars

from api.http.audit import record
from api.http.idempotency import claim_idempotency_key, key_use, with_location
from api.http.openapi.document import ERRORS, form_body
from api.http.paging import page_of
from api.http.principal import Principal, principal, requires
from api.http.requests import MULTIPART
from api.http.responses import answer_of, json_response, respond
from api.http.services import Services, services
from api.jobs.group_commit import Submission, submissions
from api.jobs.lookup import find_line, look, place_of_newcomer, wait_for, wait_seconds
from api.jobs.schemas import JobForm, JobList, JobPath, JobQuery, JobRequest
from api.studies.routes import find_study
from api.uploads.receive import (
    check_supported,
    discard,
    fingerprint,
    new_study,
    refuse_if_all_bad,
    sent_fields,
    sent_files,
    settle_modality,
    store_files,
    use_uploads,
)
from shared import metrics
from shared.db.tables import Job, JobState, Priority, Study
from shared.doorbell import CLASSIFY, DELIVER, ring
from shared.errors import InvalidRequest, UnsupportedMediaType
from shared.ids import new_id
from shared.jobs import reads, states
from shared.jobs.new_jobs import NewJob
from shared.jobs.schemas import JobEnvelope, job_envelope
from shared.keys import Scope
from shared.studies.open_studies import check_classifiable
from shared.studies.rows import NewStudy, add_studies
from shared.webhooks.outbox import deliveries_scheduled

blueprint = APIBlueprint("jobs", __name__, url_prefix="/v1", abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)


@blueprint.post(
    "/jobs",
    responses={"202": JobEnvelope, "200": JobEnvelope},
    openapi_extensions=form_body(JobForm, JobRequest, waits=True),
)
@requires(Scope.JOBS_WRITE)
def submit_job() -> Response:
    """Classify a study: send its files, or name one that is stored, or direct uploads.

    202 with the queued job. With `Prefer: wait=N`, 200 with the terminal one if it takes no longer.
    """
    who = principal()
    service = services()
    seconds = wait_seconds(service)  # refused before anything is made
    service.admission.check_capacity(request.content_length or 0)
    if request.mimetype == MULTIPART:
        job_id, made = _submit_files(service, who)
    elif request.mimetype == "application/json":
        job_id, made = _submit_stored(service, who)
    else:
        raise UnsupportedMediaType("send multipart/form-data with files, or application/json that names what is stored")
    ring(service.settings, CLASSIFY)
    if made is not None:
        metrics.JOBS_SUBMITTED.labels(made.classifier, made.priority).inc()
        # Told with the request's own line: a second one would be a twentieth of what a submission costs.
        bind_contextvars(job_id=job_id, classifier=made.classifier, priority=made.priority)
    # Without a wait the answer is made of what was written: nothing is read back.
    look_at = partial(look, service, who, job_id)
    answer = wait_for(service, job_id, look_at, seconds) if made is None or seconds else answer_of(made)
    response = respond(answer, 200 if seconds and answer.terminal else 202)
    return with_location(response, f"/v1/jobs/{job_id}", replayed=made is None)


def _submit_files(service: Services, who: Principal) -> tuple[str, JobEnvelope | None]:
    """Return the new job's id and envelope; the id alone of the job that the same request made before."""
    files = sent_files(service.settings.max_files)
    form = JobForm.model_validate(sent_fields())
    service.admission.admit(who.tenant_id, stat=form.priority is Priority.STAT)
    with ExitStack() as storing:
        with submissions().coming():
            taken = storing.enter_context(store_files(service, who, files))
        refuse_if_all_bad(taken)
        modality = settle_modality(taken, form.modality)
        check_supported(form.classifier, modality)
        job = _asked_for(who, form, new_id("stu"))
        study = new_study(who, taken, modality, form.external_id, form.metadata, job.study_id)
        use = key_use(lambda: fingerprint(form.model_dump(), taken), job.id)
        written = submissions().write(Submission(who.key_id, study, job, use))
        if written.first is not None:
            discard(service, taken)
            return written.first, None
    return job.id, _queued(service, job, study, written.queued_at)


def _submit_stored(service: Services, who: Principal) -> tuple[str, JobEnvelope | None]:
    """As `_submit_files`, for what is in the store already."""
    asked = JobRequest.model_validate(request.get_json())
    _check_source(asked)
    service.admission.admit(who.tenant_id, stat=asked.priority is Priority.STAT)
    job = _asked_for(who, asked, asked.study_id or new_id("stu"))
    with service.database.transaction() as session:
        first = claim_idempotency_key(session, who, fingerprint(asked.model_dump()), job.id)
        if first is not None:
            return first, None
        study: NewStudy | Study
        if asked.study_id is None:
            study = _study_of_uploads(session, who, asked, job.study_id)
        else:
            study = find_study(session, who, asked.study_id, kept=True)
            check_classifiable(study)
            metadata = study.extra if asked.metadata is None else asked.metadata
            job = replace(job, external_id=job.external_id or study.external_id, metadata=metadata)
        check_supported(job.classifier, study.modality)
        queued_at = enqueue(session, who, job)
    return job.id, _queued(service, job, study, queued_at)


def _check_source(asked: JobRequest) -> None:
    if (asked.study_id is None) == (not asked.upload_ids):
        message = "name either a study_id or upload_ids"
        raise InvalidRequest(message, errors=[{"field": "study_id", "message": message}])
    if asked.study_id is not None and asked.modality is not None:
        message = "the study's own modality holds"
        raise InvalidRequest(message, errors=[{"field": "modality", "message": message}])


def _study_of_uploads(session: Session, who: Principal, asked: JobRequest, study_id: str) -> NewStudy:
    taken = use_uploads(session, who, asked.upload_ids)
    modality = settle_modality(taken, asked.modality)
    study = new_study(who, taken, modality, asked.external_id, asked.metadata or {}, study_id)
    add_studies(session, [study])
    return study


def _asked_for(who: Principal, asked: JobForm | JobRequest, study_id: str) -> NewJob:
    return NewJob(
        id=new_id("job"),
        tenant_id=who.tenant_id,
        study_id=study_id,
        classifier=asked.classifier,
        priority=asked.priority,
        external_id=asked.external_id,
        metadata=asked.metadata or {},
        expires_at=None if asked.expires_in is None else datetime.now(UTC) + timedelta(seconds=asked.expires_in),
        force=asked.force,
    )


def enqueue(session: Session, who: Principal, job: NewJob) -> datetime:
    """Return the job's row and its audit entry, in the caller's transaction; the time that both carry."""
    states.submit(session, [job])
    return record(session, who, "job.submit", job.id)


def _queued(service: Services, job: NewJob, study: NewStudy | Study, queued_at: datetime) -> JobEnvelope:
    """Return the job as a poll would show it now."""
    served_as = find_line(service, job)
    position, wait = place_of_newcomer(service, job, served_as, queued_at)
    return JobEnvelope(
        id=job.id,
        status=JobState.QUEUED,
        study_id=job.study_id,
        batch_id=None,
        classifier=job.classifier,
        modality=study.modality,
        priority=job.priority,
        served_as=served_as,
        external_id=job.external_id,
        metadata=dict(job.metadata),
        image_count=study.image_count,
        burned_in_annotation=study.burned_in,
        attempts=0,
        position=position,
        estimated_wait_seconds=wait,
        created_at=queued_at,
        queued_at=queued_at,
        expires_at=job.expires_at,
        started_at=None,
        finished_at=None,
        error=None,
        result=None,
    )


@blueprint.get("/jobs/<string:job_id>", responses={"200": JobEnvelope, "304": None})
@requires(Scope.JOBS_READ)
def get_job(path: JobPath) -> Response:
    """Return a job: its status, its place in line while it waits, its result when it succeeded.

    Polls cost little with `If-None-Match`; `Prefer: wait=N` answers when the job is terminal.
    """
    who = principal()
    service = services()
    look_at = partial(look, service, who, path.job_id)
    return respond(wait_for(service, path.job_id, look_at, wait_seconds(service)))


@blueprint.get("/jobs", responses={"200": JobList})
@requires(Scope.JOBS_READ)
def list_jobs(query: JobQuery) -> Response:
    """List the tenant's jobs, newest first, a page at a time; results without their images unless `include` says so."""
    who = principal()
    service = services()
    wanted = sa.select(Job).where(Job.tenant_id == who.tenant_id).options(load_only(Job.study_id))
    for column, value in (
        (Job.state, query.status),
        (Job.classifier, query.classifier),
        (Job.study_id, query.study_id),
        (Job.batch_id, query.batch_id),
        (Job.external_id, query.external_id),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    with service.database.transaction() as session:
        rows, cursor = page_of(session, wanted, Job.id, query.cursor, query.limit)
        ids = [job.id for job in rows]
        if query.include is not None and (fitting := _fitting(session, rows)) < len(ids):
            ids, cursor = ids[:fitting], ids[fitting - 1]
    read = reads.summaries if query.include is None else reads.of_ids
    with service.database.single() as connection:
        jobs = read(connection, who.tenant_id, ids)
    return json_response(JobList(data=[job_envelope(job) for job in jobs], next_cursor=cursor))


def _fitting(session: Session, rows: Sequence[Job]) -> int:
    """How many of these jobs a page has room for, by their images; one at least."""
    counts = sa.select(Study.id, Study.image_count).where(Study.id.in_({job.study_id for job in rows}))
    images: dict[str, int] = {row.id: row.image_count for row in session.execute(counts)}
    totals = accumulate(images.get(job.study_id, 0) for job in rows)
    return max(1, sum(total <= reads.MOST_IMAGES for total in totals))


@blueprint.post("/jobs/<string:job_id>/cancel", responses={"200": JobEnvelope})
@requires(Scope.JOBS_WRITE)
def cancel_job(path: JobPath) -> Response:
    """Withdraw a queued or running job. Cancelling it again changes nothing; a finished one is a conflict."""
    who = principal()
    service = services()
    with service.database.transaction() as session:
        states.cancel(session, who.tenant_id, path.job_id)
        record(session, who, "job.cancel", path.job_id)
        has_subscribers = deliveries_scheduled(session)
    if has_subscribers:
        ring(service.settings, DELIVER)
    log.info("job.cancelled", job_id=path.job_id)
    return respond(look(service, who, path.job_id))
