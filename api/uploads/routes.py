"""Direct uploads: addresses at which clients put files into the store themselves, and what became of them."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session

from api.http.idempotency import REPLAYED, claim_idempotency_key
from api.http.openapi.document import ERRORS, IDEMPOTENCY_KEY
from api.http.principal import Principal, principal, requires
from api.http.responses import json_response
from api.http.services import Services, services
from api.uploads.content import own_address
from api.uploads.prepare import deidentify_upload
from api.uploads.receive import fingerprint, remove
from api.uploads.schemas import UploadAddress, UploadAddressList, UploadPath, UploadRequest, UploadView
from shared import metrics
from shared.db.tables import Upload, UploadState
from shared.errors import (
    Conflict,
    ImageError,
    InvalidRequest,
    NotFound,
    ObjectNotFound,
    StorageError,
    TooManyUploads,
    UploadMismatch,
)
from shared.ids import new_id
from shared.imaging.decode import ImageInfo
from shared.keys import Scope
from shared.storage import ObjectInfo, SeekableObject, Stored, object_key
from shared.studies import direct_uploads

blueprint = APIBlueprint("uploads", __name__, url_prefix="/v1", abp_tags=[Tag(name="uploads")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)

READ_BYTES = 1024 * 1024
HEADER_BYTES = 64 * 1024  # a header is mostly within the first request to the store


@blueprint.post("/uploads", responses={"201": UploadAddressList}, openapi_extensions={"parameters": [IDEMPOTENCY_KEY]})
@requires(Scope.JOBS_WRITE)
def create_uploads(body: UploadRequest) -> Response:
    """Announce files; for each, an address that takes it. Complete each upload once its bytes are there."""
    who = principal()
    service = services()
    service.admission.check_capacity()
    _check_sizes(service, body)
    # Their bytes may go past the API: they are counted when they are announced.
    service.limits.count_bytes(who.tenant_id, sum(file.size_bytes for file in body.files))
    lifetime = timedelta(seconds=service.settings.upload_url_seconds)
    files = [(new_id("upl"), file.size_bytes, file.sha256) for file in body.files]
    with service.database.transaction() as session:
        # One request makes many uploads, and a key remembers one text.
        first = claim_idempotency_key(
            session, who, fingerprint(body.model_dump()), " ".join(upload_id for upload_id, *_ in files)
        )
        if first is None:
            _check_pending(session, who, len(files), service.settings.max_pending_uploads)
            made = direct_uploads.announce(session, who.tenant_id, files, lifetime)
        else:
            made = _made_before(session, who, first.split())
    response = json_response(UploadAddressList(data=[_address(service, upload) for upload in made]), 201)
    if first is not None:
        response.headers[REPLAYED] = "true"
    return response


def _check_sizes(service: Services, body: UploadRequest) -> None:
    most = service.settings.max_upload_bytes
    errors = [
        {"field": f"files.{number}.size_bytes", "message": f"at most {most}"}
        for number, file in enumerate(body.files)
        if file.size_bytes > most
    ]
    if errors:
        raise InvalidRequest("some files are too large", errors=errors)


def _check_pending(session: Session, who: Principal, more: int, most: int) -> None:
    """Raise TooManyUploads: announcing costs nothing, and each announcement is a row until its time is over."""
    if direct_uploads.pending(session, who.tenant_id) + more > most:
        raise TooManyUploads(f"a tenant has {most} pending uploads at most")


def _made_before(session: Session, who: Principal, upload_ids: list[str]) -> list[Upload]:
    mine = sa.select(Upload).where(Upload.tenant_id == who.tenant_id, Upload.id.in_(upload_ids))
    found = {upload.id: upload for upload in session.scalars(mine)}
    if len(found) < len(upload_ids):
        raise NotFound("the uploads of the first request are gone")
    return [found[upload_id] for upload_id in upload_ids]


def _address(service: Services, upload: Upload) -> UploadAddress:
    # An address is good for a second at least: S3 signs none for less, and a replay may come late.
    left = max(upload.expires_at - datetime.now(UTC), timedelta(seconds=1))
    signed = service.storage.presigned_put(upload.object_key, upload.size_bytes, upload.sha256, left)
    signed = signed or own_address(service, upload, left)
    return UploadAddress(id=upload.id, url=signed.url, headers=signed.headers, expires_at=upload.expires_at)


@blueprint.get("/uploads/<string:upload_id>", responses={"200": UploadView})
@requires(Scope.JOBS_READ)
def get_upload(path: UploadPath) -> Response:
    """Return an upload and, once it is complete, what its header says."""
    who = principal()
    with services().database.transaction() as session:
        upload = direct_uploads.find(session, who.tenant_id, path.upload_id)
    return json_response(_view(upload))


@blueprint.post("/uploads/<string:upload_id>/complete", responses={"200": UploadView})
@requires(Scope.JOBS_WRITE)
def complete_upload(path: UploadPath) -> Response:
    """Say that the bytes are there: size, SHA-256 and header are checked. Completing it again changes nothing.

    Wrong bytes are removed, and may be sent again for as long as the address is good.
    """
    who = principal()
    service = services()
    with service.database.transaction() as session:
        upload = direct_uploads.find(session, who.tenant_id, path.upload_id)
    if upload.state is UploadState.PENDING:
        upload = _complete_upload(service, who, upload)
    return json_response(_view(upload))


def _complete_upload(service: Services, who: Principal, upload: Upload) -> Upload:
    try:
        kept, info = _checked(service, upload)
    except (ImageError, UploadMismatch):
        _remove_wrong(service, who, upload)
        raise
    with service.database.transaction() as session:
        held = direct_uploads.find(session, who.tenant_id, upload.id, lock=True)
        direct_uploads.complete(session, held, kept, info, timedelta(hours=service.settings.upload_hours))
        session.refresh(held)
    # Of the two objects, if there are two: the one as it was sent; or ours, when another request was faster.
    remove(service, {upload.object_key, kept.key} - {held.object_key})
    metrics.UPLOADED_BYTES.inc(upload.size_bytes)
    log.info("upload.completed", upload_id=upload.id)
    return held


def _checked(service: Services, upload: Upload) -> tuple[Stored, ImageInfo]:
    """Return the object as it is to be kept, and what its header says.

    UploadMismatch when it is not what was announced, Conflict when there is none.
    """
    try:
        there = service.storage.stat(upload.object_key)
    except ObjectNotFound:
        raise Conflict("no bytes have come for this upload yet") from None
    if there.size != upload.size_bytes:
        raise UploadMismatch("the size is not the announced one")
    if _sha256(service, there) != upload.sha256:
        raise UploadMismatch("the SHA-256 is not the announced one")
    source = SeekableObject(lambda offset, length: service.storage.read(there.key, offset, length), there.size)
    with io.BufferedReader(source, HEADER_BYTES) as file:
        kept, info = deidentify_upload(service, upload.tenant_id, file)
        if kept is file:
            return Stored(there.key, upload.sha256, there.size), info
        # What a client puts into the store itself is changed only here, by a copy: until then nothing uses it.
        return service.storage.put(object_key(upload.tenant_id), kept), info


def _sha256(service: Services, there: ObjectInfo) -> str:
    """As the store compared it while the bytes came in; a store that does not is read."""
    if there.sha256 is not None:
        return there.sha256
    digest = hashlib.sha256()
    with service.storage.open(there.key) as body:
        while chunk := body.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _remove_wrong(service: Services, who: Principal, upload: Upload) -> None:
    with service.database.transaction() as session:
        # Under the lock: another request may have found the right bytes there in the meantime.
        if direct_uploads.find(session, who.tenant_id, upload.id, lock=True).state is UploadState.PENDING:
            service.storage.delete(upload.object_key)


@blueprint.delete("/uploads/<string:upload_id>", responses={"204": None})
@requires(Scope.JOBS_WRITE)
def delete_upload(path: UploadPath) -> Response:
    """Forget an upload and remove its bytes. One that a study uses is a conflict."""
    who = principal()
    service = services()
    with service.database.transaction() as session:
        key = direct_uploads.withdraw(session, who.tenant_id, path.upload_id)
    try:
        service.storage.delete(key)
    except StorageError as error:
        # The row is gone, and the sweeper removes objects without one.
        log.warning("objects.orphaned", error=error.type)
    return Response(status=204)


def _view(upload: Upload) -> UploadView:
    info = upload.info or {}
    return UploadView(
        id=upload.id,
        state=upload.state,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        media_type=info.get("media_type"),
        width=info.get("width"),
        height=info.get("height"),
        frames=info.get("frames"),
        modality=info.get("modality"),
        created_at=upload.created_at,
        completed_at=upload.completed_at,
        expires_at=upload.expires_at,
    )
