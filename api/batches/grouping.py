"""A batch's files and the studies that they make: each its own, or those of a folder or a DICOM UID together.

Files that are grouped wait in a table until the last one is in, for nothing says earlier that a group is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.batches.items import BatchContext, ReceivedItem, of_files, refuse
from api.uploads.receive import StoredFile
from shared.batches import Accepted, Rejected
from shared.db.bulk_insert import insert_rows
from shared.db.tables import BatchFile, Grouping
from shared.errors import ImageError, InvalidRequest, ThoraqError, problem_of
from shared.imaging.info import ImageInfo, MediaType

GROUPS = 64  # made into studies in one transaction


def write_studies(
    session: Session, context: BatchContext, received: Sequence[ReceivedItem]
) -> list[Accepted | Rejected]:
    """Each file is a study."""
    del session  # writes nothing beside what becomes of the files
    return [refuse(one, _reason(one)) if one.taken is None else of_files(context, one, [one.taken]) for one in received]


def write_waiting(
    session: Session, context: BatchContext, received: Sequence[ReceivedItem]
) -> list[Accepted | Rejected]:
    """Write the files that wait to be grouped; those that belong to no group are refused."""
    waiting, refused = [], []
    for one in received:
        group = None if one.taken is None else _group(context.form.group_by, one, one.taken)
        if one.taken is None or group is None:
            refused.append(refuse(one, _reason(one)))
        else:
            waiting.append(_row(context, one, one.taken, group))
    insert_rows(session, (BatchFile, waiting))
    return list(refused)


def _reason(received: ReceivedItem) -> ThoraqError:
    no_group = "the file does not say which study or series it is of: only DICOM files do"
    return received.error or (received.taken and received.taken.error) or InvalidRequest(no_group)


def _group(group_by: Grouping, received: ReceivedItem, taken: StoredFile) -> str | None:
    if group_by is Grouping.FOLDER:
        return (received.member or "").replace("\\", "/").rpartition("/")[0]
    if taken.info is None:
        return None
    return taken.info.study_uid if group_by is Grouping.STUDY else taken.info.series_uid


def _row(context: BatchContext, received: ReceivedItem, taken: StoredFile, group: str) -> dict[str, Any]:
    info = taken.info and asdict(taken.info) | {"study_uid": None, "series_uid": None}
    return {
        "batch_id": context.batch_id,
        "item": received.item,
        "tenant_id": context.tenant_id,
        "member": received.member,
        "group_key": hashlib.sha256(f"{context.batch_id} {group}".encode()).hexdigest(),
        "object_key": taken.key,
        "sha256": taken.sha256,
        "size_bytes": taken.size,
        "info": info,
        "problem": taken.error and problem_of(taken.error),
    }


def write_groups(
    session: Session, context: BatchContext, max_files: int, limit: int | None = None
) -> tuple[list[Accepted | Rejected], list[StoredFile]]:
    """Write the next groups, at most so many, in the order of their first files; return what becomes of them.

    Files that are of no use are returned, too.
    """
    items: list[Accepted | Rejected] = []
    unused: list[StoredFile] = []
    for group in _gather(session, context, limit):
        received, files = _gathered(context, group, max_files)
        item = refuse(received, received.error) if received.error else of_files(context, received, files)
        items.append(item)
        unused.extend(files if isinstance(item, Rejected) else [])
    return items, unused


def _gather(session: Session, context: BatchContext, limit: int | None) -> list[list[BatchFile]]:
    mine = BatchFile.batch_id == context.batch_id
    first = sa.func.min(BatchFile.item)
    groups = sa.select(BatchFile.group_key).where(mine).group_by(BatchFile.group_key).order_by(first).limit(limit)
    keys = session.scalars(groups).all()
    theirs = sa.and_(mine, BatchFile.group_key.in_(keys))
    files = session.scalars(sa.select(BatchFile).where(theirs).order_by(BatchFile.item)).all()
    session.execute(sa.delete(BatchFile).where(theirs).execution_options(synchronize_session=False))
    found: dict[str, list[BatchFile]] = {key: [] for key in keys}
    for file in files:
        found[file.group_key].append(file)
    return list(found.values())


def _gathered(
    context: BatchContext, files: Sequence[BatchFile], max_files: int
) -> tuple[ReceivedItem, list[StoredFile]]:
    member = files[0].member
    if context.form.group_by is Grouping.FOLDER and member is not None:
        member = member.replace("\\", "/").rpartition("/")[0]
    error = InvalidRequest(f"at most {max_files} files in one study") if len(files) > max_files else None
    return ReceivedItem(files[0].item, member, error=error), [_stored_file(file) for file in files]


def _stored_file(file: BatchFile) -> StoredFile:
    info = ImageInfo(**file.info | {"media_type": MediaType(file.info["media_type"])}) if file.info else None
    error = ImageError() if file.problem else None
    if error is not None:
        error.problem = file.problem
    return StoredFile(file.sha256, file.size_bytes, file.object_key, info, error, file.member)
