"""Studies: send one, look at it, see its pictures."""

from __future__ import annotations

import cv2
import sqlalchemy as sa
from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session, selectinload

from api.context import Principal, principal, services
from api.idempotency import earlier, located
from api.openapi import ERRORS, form_body
from api.schemas import ImagePath, ImageView, StudyForm, StudyPath, StudyView
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
from shared.envelope import ProblemRef
from shared.errors import Conflict, ImageError, NotFound
from shared.imaging.decode import Limits, MediaType, decode_one
from shared.keys import Scope
from shared.models import AuditEntry, Image, Job, JobState, Study

blueprint = APIBlueprint("studies", __name__, url_prefix="/v1", abp_tags=[Tag(name="studies")], abp_responses=ERRORS)

PREVIEW_PIXELS = 768


def find_study(session: Session, who: Principal, study_id: str) -> Study:
    """The tenant's study, or NotFound."""
    mine = sa.select(Study).where(Study.id == study_id, Study.tenant_id == who.tenant_id)
    study = session.scalar(mine.options(selectinload(Study.images)).execution_options(populate_existing=True))
    if study is None:
        raise NotFound("no such study")
    return study


def study_view(study: Study) -> StudyView:
    """The study's rows as clients see them."""
    return StudyView(
        id=study.id,
        modality=study.modality,
        external_id=study.external_id,
        metadata=study.extra,
        created_at=study.created_at,
        images=[
            ImageView(
                id=image.id,
                file=image.file_index,
                frame=image.frame,
                sha256=image.sha256,
                size_bytes=image.size_bytes,
                media_type=image.media_type,
                width=image.width,
                height=image.height,
                problem=ProblemRef.model_validate(image.problem) if image.problem else None,
            )
            for image in study.images
        ],
    )


@blueprint.post("/studies", responses={"201": StudyView}, openapi_extensions=form_body(StudyForm))
def create_study() -> Response:
    """Store a study without classifying it yet."""
    who = principal(Scope.JOBS_WRITE)
    files = sent_files()
    form = StudyForm.model_validate(sent_fields())
    service = services()
    with received(service, who, files) as taken:
        refuse_if_all_bad(taken)
        modality = settle_modality(taken, form.modality)
        with service.database.transaction() as session:
            study = add_study(session, who, taken, modality, form.external_id, form.metadata)
            first = earlier(session, who, fingerprint(form.model_dump(), taken), study.id)
            if first is not None:
                session.rollback()
            else:
                session.add(
                    AuditEntry(tenant_id=who.tenant_id, actor=who.key_id, action="study.create", subject=study.id)
                )
        if first is not None:
            discard(service, taken)
    with service.database.transaction() as session:
        view = study_view(find_study(session, who, first or study.id))
    response = jsonify(view.model_dump(mode="json"))
    response.status_code = 201
    return located(response, f"/v1/studies/{view.id}", replayed=first is not None)


@blueprint.get("/studies/<string:study_id>", responses={"200": StudyView})
def get_study(path: StudyPath) -> Response:
    """A study and its images."""
    who = principal(Scope.JOBS_READ)
    with services().database.transaction() as session:
        view = study_view(find_study(session, who, path.study_id))
    return jsonify(view.model_dump(mode="json"))


@blueprint.get(
    "/studies/<string:study_id>/images/<string:image_id>/preview",
    responses={"200": {"description": "The picture in display grey", "content": {"image/png": {}}}},
)
def get_preview(path: ImagePath) -> Response:
    """The picture as the classifiers see its grey values, longest side at most 768 pixels."""
    who = principal(Scope.JOBS_READ)
    service = services()
    with service.database.transaction() as session:
        image = _find_image(session, who, path)
    if image.object_key is None:
        raise ImageError("the file was refused on arrival and is not kept")
    limits = Limits(max_pixels=service.settings.max_pixels, max_frames=service.settings.max_frames)
    data = service.storage.get(image.object_key, expect_sha256=image.sha256)
    grey = decode_one(data, limits, frame=image.frame, target=PREVIEW_PIXELS)
    scale = min(1.0, PREVIEW_PIXELS / max(grey.shape))
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in grey.shape)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, encoded = cv2.imencode(".png", grey)
    response = Response(encoded.tobytes(), mimetype="image/png")
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def _find_image(session: Session, who: Principal, path: ImagePath) -> Image:
    mine = sa.and_(Image.id == path.image_id, Image.study_id == path.study_id, Image.tenant_id == who.tenant_id)
    image = session.scalar(sa.select(Image).where(mine))
    if image is None:
        raise NotFound("no such image")
    # DICOM codecs have crashed on damaged frames. A worker takes that risk, and is started again; this process
    # decodes only what a worker has decoded before.
    answered = sa.exists().where(Job.study_id == path.study_id, Job.state == JobState.SUCCEEDED)
    if image.media_type == MediaType.DICOM and not session.scalar(sa.select(answered)):
        raise Conflict("a DICOM image can be looked at once its study has a result")
    return image
