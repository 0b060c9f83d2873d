"""NDJSON: a line for each study that is stored, or was uploaded directly. A bad line fails alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session, selectinload

from api.batches.items import BatchContext, ReceivedItem, of_files, of_study, refuse
from api.batches.schemas import BatchLine
from api.http.fields import ExternalId
from api.http.problems import invalid
from api.uploads.receive import of_upload
from shared.batches import Accepted, Rejected
from shared.db.tables import Study, Upload
from shared.errors import Conflict, InvalidRequest, NotFound
from shared.studies import direct_uploads
from shared.studies.direct_uploads import Refusal
from shared.studies.open_studies import check_classifiable

LINE_BYTES = 256 * 1024  # 2,000 ids of uploads and the most metadata fit in
CUSTOM_ID: TypeAdapter[str] = TypeAdapter(ExternalId)


def lines(pieces: Iterable[bytes], first_item: int) -> Iterator[ReceivedItem]:
    """Return the items of a body; lines without text are none."""
    texts = (line for line in _split(pieces) if line.strip())
    return (_read(line, item) for item, line in enumerate(texts, first_item))


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines; of one that is longer than any may be, its beginning."""
    rest, cut = b"", b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if whole:
            yield cut + whole[0]
            yield from whole[1:]
            cut = b""
        if len(rest) > LINE_BYTES:
            # Long enough to be refused; the remainder is dropped as it comes.
            cut, rest = (cut or rest)[: LINE_BYTES + 1], b""
    yield cut + rest


def _read(raw: bytes, item: int) -> ReceivedItem:
    if len(raw) > LINE_BYTES:
        return ReceivedItem(item, error=InvalidRequest(f"line {item + 1}: longer than {LINE_BYTES} bytes"))
    try:
        content = json.loads(raw)
        line = BatchLine.model_validate(content)
    except ValidationError as error:
        wrong = InvalidRequest(f"line {item + 1}: some fields are not valid", **invalid(error).extensions)
        return ReceivedItem(item, custom_id=_custom_id(content), error=wrong)
    except (ValueError, RecursionError):
        return ReceivedItem(item, error=InvalidRequest(f"line {item + 1}: not JSON"))
    return ReceivedItem(item, line=line, custom_id=line.custom_id)


def _custom_id(content: Any) -> str | None:
    """Of a line that is wrong elsewhere: the client's own name for it."""
    try:
        return CUSTOM_ID.validate_python(content.get("custom_id"), strict=True)
    except (ValidationError, AttributeError):
        return None


def write_lines(session: Session, context: BatchContext, received: Sequence[ReceivedItem]) -> list[Accepted | Rejected]:
    """Return what becomes of the lines; uploads that they name belong to their studies from now on."""
    studies = _studies(session, context, [one.line.study_id for one in received if one.line.study_id is not None])
    groups = {one.item: _uploads(one) for one in received if one.error is None and one.line.study_id is None}
    found = dict(zip(groups, direct_uploads.use_each(session, context.tenant_id, list(groups.values())), strict=True))
    items = [_item(context, one, found.get(one.item), studies) for one in received]
    refused = {item.item for item in items if isinstance(item, Rejected)}
    direct_uploads.give_back(
        session, [upload_id for item in refused & found.keys() for upload_id in _given(found[item])]
    )
    return items


def _uploads(received: ReceivedItem) -> list[str]:
    line = received.line
    return line.upload_ids or ([] if line.upload_id is None else [line.upload_id])


def _given(found: Sequence[Upload] | Refusal) -> list[str]:
    return [] if isinstance(found, Refusal) else [upload.id for upload in found]


def _studies(session: Session, context: BatchContext, study_ids: Sequence[str]) -> dict[str, Study]:
    mine = sa.select(Study).where(Study.id.in_(study_ids), Study.tenant_id == context.tenant_id)
    # Nobody deletes them before their jobs are written; in the order of ids, for two batches may name the same.
    kept = mine.order_by(Study.id).with_for_update(read=True, key_share=True)
    return {study.id: study for study in session.scalars(kept.options(selectinload(Study.images)))}


def _item(
    context: BatchContext,
    received: ReceivedItem,
    found: Sequence[Upload] | Refusal | None,
    studies: Mapping[str, Study],
) -> Accepted | Rejected:
    if received.error is not None:
        return refuse(received, received.error)
    if found is None:
        return _of_study(context, received, studies.get(received.line.study_id or ""))
    if isinstance(found, Refusal):
        return refuse(received, found)
    return of_files(context, received, [of_upload(upload) for upload in found])


def _of_study(context: BatchContext, received: ReceivedItem, study: Study | None) -> Accepted | Rejected:
    if study is None:
        return refuse(received, NotFound("no such study"))
    try:
        check_classifiable(study)
    except Conflict as error:
        return refuse(received, error)
    return of_study(context, received, study)
