"""Studies: send one, look at it, see its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session, selectinload, undefer

from api.http import audit
from api.http.idempotency import claim_idempotency_key, with_location
from api.http.openapi.document import ERRORS, form_body
from api.http.principal import Principal, principal, requires
from api.http.responses import json_response
from api.http.services import Services, services
from api.studies.previews import previews
from api.studies.schemas import Deidentified, ImagePath, ImageView, StudyForm, StudyPath, StudyRequest, StudyView
from api.uploads.receive import (
    check_supported,
    discard,
    fingerprint,
    new_images,
    new_study,
    refuse_if_all_bad,
    sent_fields,
    sent_files,
    settle_modality,
    store_files,
    use_uploads,
)
from shared.db.lookup import existing
from shared.db.tables import Image, Job, JobState, Priority, Study
from shared.doorbell import CLASSIFY, ring
from shared.errors import Conflict, InvalidRequest, NotFound, StorageError
from shared.ids import new_id
from shared.imaging.decode import MediaType
from shared.jobs.schemas import ProblemRef
from shared.keys import Scope
from shared.studies import deletion, open_studies
from shared.studies.rows import add_studies

blueprint = APIBlueprint("studies", __name__, url_prefix="/v1", abp_tags=[Tag(name="studies")], abp_responses=ERRORS)

log = structlog.get_logger(__name__)


def find_study(session: Session, who: Principal, study_id: str, *, kept: bool = False) -> Study:
    """Find the tenant's study with its images and the names of its files, or NotFound.

    With `kept` nobody deletes it until the transaction ends.
    """
    mine = sa.select(Study).where(Study.id == study_id, Study.tenant_id == who.tenant_id)
    if kept:
        mine = mine.with_for_update(read=True, key_share=True)
    whole = mine.options(selectinload(Study.images), undefer(Study.file_names))
    return existing(session.scalar(whole.execution_options(populate_existing=True)), "study")


def study_view(session: Session, who: Principal, study_id: str) -> StudyView:
    """Return the tenant's study as clients see it, or NotFound."""
    study = find_study(session, who, study_id)
    return StudyView(
        id=study.id,
        modality=study.modality,
        external_id=study.external_id,
        metadata=study.extra,
        created_at=study.created_at,
        open=study.open,
        expected_images=study.expected_images,
        closes_at=study.quiet_until if study.open else None,
        classifiable=not study.open and any(image.problem is None for image in study.images),
        jobs=list(session.scalars(sa.select(Job.id).where(Job.study_id == study.id).order_by(Job.id))),
        images=[_image_view(image, file_name(study, image.file_index)) for image in study.images],
    )


def file_name(study: Study, file_index: int) -> str | None:
    """Return the name that a file of the study was sent with, if it had one and is not of before names were kept."""
    names = study.file_names or []
    return names[file_index] if file_index < len(names) else None


def _image_view(image: Image, name: str | None) -> ImageView:
    return ImageView(
        id=image.id,
        file=image.file_index,
        file_name=name,
        frame=image.frame,
        sha256=image.sha256,
        size_bytes=image.size_bytes,
        media_type=image.media_type,
        width=image.width,
        height=image.height,
        problem=ProblemRef.model_validate(image.problem) if image.problem else None,
        burned_in_annotation=image.burned_in,
        deidentified=Deidentified.model_validate(image.deidentified) if image.deidentified else None,
    )


@blueprint.post("/studies", responses={"201": StudyView}, openapi_extensions=form_body(StudyForm, StudyRequest))
@requires(Scope.JOBS_WRITE)
def create_study() -> Response:
    """Store a study without classifying it yet: files, or direct uploads; or open one whose images come in pieces."""
    who = principal()
    service = services()
    service.admission.check_capacity(request.content_length or 0)
    if request.mimetype == "application/json":
        study_id, replayed = _create_from_json(service, who)
    else:
        study_id, replayed = _create_from_files(service, who)
    with service.database.transaction() as session:
        view = study_view(session, who, study_id)
    if view.jobs:
        ring(service.settings, CLASSIFY)
    response = json_response(view, 201)
    return with_location(response, f"/v1/studies/{view.id}", replayed=replayed)


def _create_from_files(service: Services, who: Principal) -> tuple[str, bool]:
    files = sent_files(service.settings.max_files)
    form = StudyForm.model_validate(sent_fields())
    with store_files(service, who, files) as taken:
        refuse_if_all_bad(taken)
        modality = settle_modality(taken, form.modality)
        study_id = new_id("stu")
        with service.database.transaction() as session:
            first = claim_idempotency_key(session, who, fingerprint(form.model_dump(), taken), study_id)
            if first is None:
                study = new_study(who, taken, modality, form.external_id, form.metadata, study_id)
                add_studies(session, [study])
                audit.record(session, who, "study.create", study_id)
        if first is not None:
            discard(service, taken)
    return first or study_id, first is not None


def _create_from_json(service: Services, who: Principal) -> tuple[str, bool]:
    asked = StudyRequest.model_validate(request.get_json())
    _check_fields(asked)
    if asked.classifiers:
        service.admission.admit(who.tenant_id, len(asked.classifiers), stat=asked.priority is Priority.STAT)
    study_id = new_id("stu")
    with service.database.transaction() as session:
        first = claim_idempotency_key(session, who, fingerprint(asked.model_dump()), study_id)
        if first is None:
            _create(session, service, who, asked, study_id)
            audit.record(session, who, "study.create", study_id)
    return first or study_id, first is not None


def _create(session: Session, service: Services, who: Principal, asked: StudyRequest, study_id: str) -> None:
    taken = use_uploads(session, who, asked.upload_ids) if asked.upload_ids else []
    modality = settle_modality(taken, asked.modality)
    if not asked.open:
        add_studies(session, [new_study(who, taken, modality, asked.external_id, asked.metadata, study_id)])
        return
    for classifier in asked.classifiers:
        check_supported(classifier, modality)
    study = open_studies.open_study(
        session,
        study_id=study_id,
        tenant_id=who.tenant_id,
        modality=modality,
        external_id=asked.external_id,
        metadata=asked.metadata,
        expected_images=asked.expected_images,
        quiet_seconds=asked.quiet_seconds or service.settings.study_quiet_seconds,
        wanted=[(classifier, asked.priority) for classifier in asked.classifiers],
    )
    files = [new_images(number, one) for number, one in enumerate(taken)]
    open_studies.add_images(session, study, files, service.settings.max_files, [one.name for one in taken])
    open_studies.close_if_expected(session, study, who.key_id)


def _check_fields(asked: StudyRequest) -> None:
    """Refuse a field that would be ignored, and a closed study of nothing."""
    wrong = []
    if not asked.open:
        given = sorted(asked.model_fields_set & {"expected_images", "quiet_seconds", "classifiers", "priority"})
        wrong = [{"field": field, "message": "only for a study that is opened"} for field in given]
        if not asked.upload_ids:
            wrong.append({"field": "upload_ids", "message": "missing; only a study that is opened may be empty"})
    if len(set(asked.classifiers)) < len(asked.classifiers):
        wrong.append({"field": "classifiers", "message": "named twice"})
    if wrong:
        raise InvalidRequest("some fields do not fit together", errors=wrong)


@blueprint.get("/studies/<string:study_id>", responses={"200": StudyView})
@requires(Scope.JOBS_READ)
def get_study(path: StudyPath) -> Response:
    """Return a study and its images."""
    who = principal()
    with services().database.transaction() as session:
        view = study_view(session, who, path.study_id)
    return json_response(view)


@blueprint.delete("/studies/<string:study_id>", responses={"204": None})
@requires(Scope.JOBS_WRITE)
def delete_study(path: StudyPath) -> Response:
    """Remove a study: its files, its jobs and their results, and what webhooks would still say of them.

    What runs of it ends as if it had never been; what is left is that it was deleted, by whom and when.
    """
    who = principal()
    service = services()
    with service.database.transaction() as session:
        known = list(session.scalars(sa.select(Job.id).where(Job.study_id == path.study_id)))
        if not deletion.delete_studies(session, who.tenant_id, [path.study_id], who.key_id):
            raise NotFound("no such study")
        keys = deletion.pending_objects_of(session, path.study_id)
    for job_id in known:
        service.finished.forget(who.tenant_id, job_id)
    _remove_objects(service, path.study_id, keys)
    log.info("study.deleted", study_id=path.study_id)
    return Response(status=204)


def _remove_objects(service: Services, study_id: str, keys: Sequence[str]) -> None:
    try:
        for key in keys:
            service.storage.delete(key)
    except StorageError as error:
        # They are named by the tombstone, and the sweeper comes to them.
        log.warning("objects.left", study_id=study_id, error=error.type)
        return
    with service.database.transaction() as session:
        deletion.note_removed(session, [study_id])


@blueprint.get(
    "/studies/<string:study_id>/images/<string:image_id>/preview",
    responses={"200": {"description": "The picture in display grey", "content": {"image/png": {}}}},
)
@requires(Scope.JOBS_READ)
def get_preview(path: ImagePath) -> Response:
    """Return the picture as the classifiers see its grey values, longest side at most 768 pixels."""
    who = principal()
    service = services()
    with service.database.transaction() as session:
        image = _find_image(session, who, path)
    response = Response(previews().png(image), mimetype="image/png")
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def _find_image(session: Session, who: Principal, path: ImagePath) -> Image:
    mine = sa.and_(Image.id == path.image_id, Image.study_id == path.study_id, Image.tenant_id == who.tenant_id)
    image = existing(session.scalar(sa.select(Image).where(mine)), "image")
    # One that a worker could not decode would only be tried once more.
    answered = sa.exists().where(Job.study_id == path.study_id, Job.state == JobState.SUCCEEDED)
    if image.media_type == MediaType.DICOM and not session.scalar(sa.select(answered)):
        raise Conflict("a DICOM image can be looked at once its study has a result")
    return image
