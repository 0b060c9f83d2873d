"""Studies in pieces: add images to an open study, and close it."""

from __future__ import annotations

import structlog
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session

from api.http import audit
from api.http.idempotency import claim_idempotency_key, with_location
from api.http.openapi.document import ERRORS, form_body
from api.http.principal import Principal, principal, requires
from api.http.responses import json_response
from api.http.services import Services, services
from api.studies.routes import study_view
from api.studies.schemas import AddedFile, AddImagesForm, AddImagesRequest, ImagesAdded, StudyPath, StudyView
from api.uploads.receive import (
    StoredFile,
    discard,
    fingerprint,
    new_images,
    refuse_if_all_bad,
    sent_fields,
    sent_files,
    settle_modality,
    store_files,
    use_uploads,
)
from shared.doorbell import CLASSIFY, ring
from shared.keys import Scope
from shared.studies import open_studies

blueprint = APIBlueprint(
    "open_studies", __name__, url_prefix="/v1", abp_tags=[Tag(name="studies")], abp_responses=ERRORS
)
log = structlog.get_logger(__name__)


@blueprint.post(
    "/studies/<string:study_id>/images",
    responses={"200": ImagesAdded},
    openapi_extensions=form_body(AddImagesForm, AddImagesRequest),
)
@requires(Scope.JOBS_WRITE)
def add_images(path: StudyPath) -> Response:
    """Add files or direct uploads to an open study. Bytes that it has already are not added again.

    Begins its quiet period anew, and closes it when it has as many images as were expected.
    """
    who = principal()
    service = services()
    service.admission.check_capacity(request.content_length or 0)
    with service.database.transaction() as session:
        # Before the body is read: an unknown study refuses it, and a slow one must not outlast the quiet period.
        open_studies.stay_open(session, who.tenant_id, path.study_id)
    if request.mimetype == "application/json":
        added, replayed = _add_uploads(service, who, path.study_id)
    else:
        added, replayed = _add_files(service, who, path.study_id)
    view = _shown(service, who, path.study_id)
    files = [AddedFile(file=n, status="added" if new else "already-there") for n, new in enumerate(added)]
    response = json_response(ImagesAdded(files=files, study=view))
    return with_location(response, f"/v1/studies/{path.study_id}", replayed=replayed)


def _add_files(service: Services, who: Principal, study_id: str) -> tuple[list[bool], bool]:
    files = sent_files(service.settings.max_files)
    form = AddImagesForm.model_validate(sent_fields())
    with store_files(service, who, files) as taken:
        refuse_if_all_bad(taken)
        with service.database.transaction() as session:
            first = claim_idempotency_key(session, who, fingerprint(form.model_dump(), taken), study_id)
            added = [False] * len(taken) if first else _add(session, service, who, study_id, taken)
        discard(service, [one for one, new in zip(taken, added, strict=True) if not new])
    return added, first is not None


def _add_uploads(service: Services, who: Principal, study_id: str) -> tuple[list[bool], bool]:
    asked = AddImagesRequest.model_validate(request.get_json())
    with service.database.transaction() as session:
        first = claim_idempotency_key(session, who, fingerprint(asked.model_dump()), study_id)
        if first is not None:
            return [False] * len(asked.upload_ids), True
        return _add(session, service, who, study_id, use_uploads(session, who, asked.upload_ids)), False


def _add(session: Session, service: Services, who: Principal, study_id: str, taken: list[StoredFile]) -> list[bool]:
    """Which of the files are new to the study."""
    study = open_studies.locked(session, who.tenant_id, study_id)
    settle_modality(taken, study.modality)
    files = [new_images(number, one) for number, one in enumerate(taken)]
    added = open_studies.add_images(session, study, files, service.settings.max_files, [one.name for one in taken])
    if any(added):
        audit.record(session, who, "study.add_images", study_id)
    open_studies.close_if_expected(session, study, who.key_id)
    return added


@blueprint.post("/studies/<string:study_id>/complete", responses={"200": StudyView})
@requires(Scope.JOBS_WRITE)
def complete_study(path: StudyPath) -> Response:
    """Close a study: no more images come. The jobs that were wanted for it are made. Again: nothing changes."""
    who = principal()
    service = services()
    with service.database.transaction() as session:
        open_studies.close(session, open_studies.locked(session, who.tenant_id, path.study_id), who.key_id)
    return json_response(_shown(service, who, path.study_id))


def _shown(service: Services, who: Principal, study_id: str) -> StudyView:
    """Return the study as it is now; its jobs' doorbell is rung if it has any."""
    with service.database.transaction() as session:
        view = study_view(session, who, study_id)
    if view.jobs:
        ring(service.settings, CLASSIFY)
    log.info("study.changed", study_id=study_id, open=view.open, images=len(view.images), jobs=len(view.jobs))
    return view
