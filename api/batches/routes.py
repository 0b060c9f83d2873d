"""Batches: many studies sent together, as a ZIP, as lines that name what is stored, or as a form of files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import BinaryIO

import sqlalchemy as sa
import structlog
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.orm import Session

from api.batches.grouping import write_studies, write_waiting
from api.batches.items import ReceivedItem
from api.batches.ndjson import lines, write_lines
from api.batches.openapi import BATCH_BODY
from api.batches.pipeline import Intake, taking_in
from api.batches.receiver import BatchReceiver
from api.batches.schemas import BatchForm, BatchList, BatchListQuery, BatchPath, BatchQuery
from api.batches.zip_reader import Archive, ZipMember
from api.http.idempotency import sent_key, with_location
from api.http.openapi.document import ERRORS
from api.http.paging import page_of
from api.http.principal import Principal, principal, requires
from api.http.requests import MULTIPART
from api.http.responses import Answer, answer_of, json_response, respond
from api.http.services import Services, services
from api.jobs.lookup import wait_for, wait_seconds
from api.uploads.prepare import digest_as_stored
from api.uploads.receive import discard, fingerprint, receive_many, sent_fields, sent_files, single, store_files
from shared import batches
from shared.db.lookup import existing
from shared.db.tables import Batch, Grouping, IdempotencyKey
from shared.doorbell import DELIVER, ring
from shared.errors import BadRequest, ImageError, InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from shared.jobs.batch_schemas import BatchEnvelope, batch_envelope
from shared.keys import Scope

blueprint = APIBlueprint("batches", __name__, url_prefix="/v1", abp_tags=[Tag(name="batches")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)

ZIP, NDJSON = "application/zip", "application/x-ndjson"


@blueprint.post("/batches", responses={"202": BatchEnvelope}, openapi_extensions=BATCH_BODY)
@requires(Scope.JOBS_WRITE)
def submit_batch() -> Response:
    """Classify many studies. A ZIP or lines are taken in as they come, and what is in runs while the rest arrives.

    202 when all of it is in. An item that cannot be accepted is listed among the batch's errors. When the connection
    breaks, send the same again with the same Idempotency-Key, from `next_item` on if you like.
    """
    who = principal()
    service = services()
    # A stream is stored piece by piece, and every chunk of it looks for its room.
    service.admission.check_capacity(request.content_length or 0 if request.mimetype == MULTIPART else 0)
    if request.mimetype == MULTIPART:
        batch_id, replayed = _submit_form(service, who)
    elif request.mimetype in {ZIP, NDJSON}:
        batch_id, replayed = _submit_stream(service, who)
    else:
        raise UnsupportedMediaType(f"send {ZIP}, {NDJSON}, or {MULTIPART} with files")
    view = view_of(service, who, batch_id)
    log.info("batch.submitted", batch_id=batch_id, items=view.next_item, replayed=replayed)
    return with_location(respond(answer_of(view), 202), f"/v1/batches/{batch_id}", replayed=replayed)


def _submit_form(service: Services, who: Principal) -> tuple[str, bool]:
    files = sent_files(service.settings.max_batch_items)
    if request.args:
        # Ignored, a misspelt one would pass for a default.
        errors = [
            {"field": name[:100], "message": "with a form the options are fields of the form"} for name in request.args
        ]
        raise InvalidRequest("the query has no meaning beside a form", errors=errors)
    form = BatchForm.model_validate(sent_fields())
    with store_files(service, who, files, service.settings.max_batch_items) as taken:
        received = [ReceivedItem(item, one.name, one) for item, one in enumerate(taken)]
        write = write_studies if form.group_by is Grouping.FILE else write_waiting
        receiver = BatchReceiver(service, who, form, write, sent_key(), fingerprint(form.model_dump(), taken))
        first = receiver.add_whole(received)
    if first is not None:
        discard(service, taken)
        return first, True
    return receiver.batch_id, False


def _submit_stream(service: Services, who: Principal) -> tuple[str, bool]:
    query = BatchQuery.model_validate(single(request.args))
    form = BatchForm.model_validate(query.model_dump(exclude={"first_item"}))
    if request.mimetype == NDJSON:
        _check_lines(form)
        write = write_lines
    else:
        write = write_studies if form.group_by is Grouping.FILE else write_waiting
    receiver = BatchReceiver(
        service, who, form, write, sent_key(), fingerprint(form.model_dump() | {"body": request.mimetype})
    )
    if not receiver.take(query.first_item):
        return receiver.batch_id, True
    if request.mimetype == NDJSON:
        with taking_in(receiver, service.storage, list) as intake:
            _put_lines(service, receiver, intake, query.first_item)
    else:
        with taking_in(receiver, service.storage, partial(_take_in, service, who, receiver)) as intake:
            _put_members(service, receiver, intake, query.first_item)
    return receiver.batch_id, False


def _check_lines(form: BatchForm) -> None:
    if request.content_length is None:
        raise BadRequest("lines need a Content-Length: without it a connection that breaks looks like their end")
    if form.group_by is not Grouping.FILE:
        message = "a line is a study: it names all of its uploads"
        raise InvalidRequest(message, errors=[{"field": "group_by", "message": message}])


def _put_lines(service: Services, receiver: BatchReceiver, intake: Intake[ReceivedItem], first_item: int) -> None:
    most = service.settings.max_batch_items
    for received in lines(intake.pieces(service.settings.max_upload_bytes), first_item):
        if received.item >= most:
            raise PayloadTooLarge(f"at most {most} items in one batch")
        if received.item >= receiver.known_until:
            intake.put(received)


def _put_members(service: Services, receiver: BatchReceiver, intake: Intake[ZipMember], first_item: int) -> None:
    pieces = intake.pieces(service.settings.max_batch_bytes)
    for member in Archive(pieces, first_item, service.settings, receiver.ignore):
        intake.put(member, member.size)


def _take_in(
    service: Services, who: Principal, receiver: BatchReceiver, members: Sequence[ZipMember]
) -> list[ReceivedItem]:
    """Return the members, stored; without those that an earlier request has brought in."""
    with ExitStack() as files:
        for member in members:
            files.enter_context(member.file)
        for member in members:
            if member.item < receiver.known_until:
                receiver.check_known(member.item, _digest(service, who, member.file))
        new = [member for member in members if member.item >= receiver.known_until]
        taken = iter(receive_many(service, who, [member.file for member in new if member.error is None]))
        return [
            ReceivedItem(one.item, one.name, error=one.error)
            if one.error
            else ReceivedItem(one.item, one.name, replace(next(taken), name=one.name))
            for one in new
        ]


def _digest(service: Services, who: Principal, file: BinaryIO) -> str | None:
    """As the file would be stored; None for one that would not be, and is known by nothing."""
    try:
        return digest_as_stored(service, who.tenant_id, file)
    except ImageError:
        return None


@blueprint.get("/batches", responses={"200": BatchList})
@requires(Scope.JOBS_READ)
def list_batches(query: BatchListQuery) -> Response:
    """List the tenant's batches, newest first, a page at a time."""
    who = principal()
    wanted = sa.select(Batch).where(Batch.tenant_id == who.tenant_id)
    if query.external_id is not None:
        wanted = wanted.where(Batch.external_id == query.external_id)
    if query.idempotency_key is not None:
        mine = sa.and_(IdempotencyKey.tenant_id == who.tenant_id, IdempotencyKey.key == query.idempotency_key)
        wanted = wanted.where(Batch.id.in_(sa.select(IdempotencyKey.resource_id).where(mine)))
    with services().database.transaction() as session:
        rows, cursor = page_of(session, wanted, Batch.id, query.cursor, query.limit)
        data = [batch_envelope(batch) for batch in rows]
    return json_response(BatchList(data=data, next_cursor=cursor))


@blueprint.get("/batches/<string:batch_id>", responses={"200": BatchEnvelope, "304": None})
@requires(Scope.JOBS_READ)
def get_batch(path: BatchPath) -> Response:
    """Return a batch and the counts of its jobs: one row, however large it is.

    Polls cost little with `If-None-Match`; `Prefer: wait=N` answers when all of it has ended.
    """
    who = principal()
    service = services()
    look_at = partial(_look, service, who, path.batch_id)
    return respond(wait_for(service, path.batch_id, look_at, wait_seconds(service)))


@blueprint.post("/batches/<string:batch_id>/cancel", responses={"200": BatchEnvelope})
@requires(Scope.JOBS_WRITE)
def cancel_batch(path: BatchPath) -> Response:
    """Withdraw what has not ended; answers that are there stay. Cancelling it again changes nothing."""
    who = principal()
    service = services()
    batches.cancel(service.database, who.tenant_id, path.batch_id, who.key_id)
    ring(service.settings, DELIVER)
    log.info("batch.cancelled", batch_id=path.batch_id)
    return respond(_look(service, who, path.batch_id))


def _look(service: Services, who: Principal, batch_id: str) -> Answer:
    return answer_of(view_of(service, who, batch_id))


def view_of(service: Services, who: Principal, batch_id: str) -> BatchEnvelope:
    """Return the tenant's batch as clients see it now, or NotFound."""
    with service.database.transaction() as session:
        return batch_envelope(find_batch(session, who, batch_id))


def find_batch(session: Session, who: Principal, batch_id: str) -> Batch:
    """Find the tenant's batch, or NotFound."""
    return existing(
        session.scalar(sa.select(Batch).where(Batch.id == batch_id, Batch.tenant_id == who.tenant_id)), "batch"
    )
