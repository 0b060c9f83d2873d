"""Direct uploads: files that a client puts into the store itself, then completes, then uses in a study.

    pending -> complete -> used

Every function takes the caller's transaction. An upload belongs to one study at most: `use` gives it away once, and
what was never used is swept. The object of a used upload is its image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db.lookup import existing
from shared.db.tables import Upload, UploadState
from shared.errors import Conflict, NotFound
from shared.imaging.info import ImageInfo, MediaType
from shared.storage import Stored, object_key

Refusal = NotFound | Conflict


def announce(
    session: Session, tenant_id: str, files: Sequence[tuple[str, int, str]], lifetime: timedelta
) -> list[Upload]:
    """Pending uploads of these (id, size in bytes, SHA-256), in their order."""
    over = session.scalar(sa.select(sa.func.now() + lifetime))
    uploads = [
        Upload(
            id=upload_id,
            tenant_id=tenant_id,
            object_key=object_key(tenant_id),
            state=UploadState.PENDING,
            size_bytes=size,
            sha256=sha256,
            expires_at=over,
        )
        for upload_id, size, sha256 in files
    ]
    session.add_all(uploads)
    session.flush()
    return uploads


def pending(session: Session, tenant_id: str) -> int:
    """Count the tenant's uploads that are announced and not complete, and whose time is not over."""
    mine = sa.and_(Upload.tenant_id == tenant_id, Upload.state == UploadState.PENDING)
    count = sa.select(sa.func.count()).select_from(Upload).where(mine, Upload.expires_at > sa.func.now())
    return session.scalars(count).one()


def find(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """Return the tenant's upload, locked for the rest of the transaction when asked; NotFound."""
    mine = sa.select(Upload).where(Upload.id == upload_id, Upload.tenant_id == tenant_id)
    return existing(
        session.scalar((mine.with_for_update() if lock else mine).execution_options(populate_existing=True)), "upload"
    )


def complete(session: Session, upload: Upload, kept: Stored, info: ImageInfo, lifetime: timedelta) -> None:
    """Complete a locked upload, whose bytes are there and are what was announced; what is kept of them is `kept`.

    It may be used for as long as `lifetime`. Nothing changes when it is complete already.
    """
    if upload.state is not UploadState.PENDING:
        return
    upload.object_key, upload.sha256, upload.size_bytes = kept.key, kept.sha256, kept.size
    upload.state = UploadState.COMPLETE
    upload.info = asdict(info)
    upload.completed_at = sa.func.now()
    upload.expires_at = sa.func.now() + lifetime
    session.flush()


def withdraw(session: Session, tenant_id: str, upload_id: str) -> str:
    """Forget an upload; the key of the object that the caller removes after the commit. Conflict for a used one."""
    upload = find(session, tenant_id, upload_id, lock=True)
    if upload.state is UploadState.USED:
        raise Conflict("the upload belongs to a study")
    session.delete(upload)
    return upload.object_key


def sweep_unused(session: Session, limit: int) -> list[str]:
    """Forget uploads whose time is over and that no study uses; the keys of the objects to remove after the commit."""
    over = sa.select(Upload.id).where(Upload.state != UploadState.USED, Upload.expires_at < sa.func.now())
    oldest = over.order_by(Upload.expires_at).limit(limit).with_for_update(skip_locked=True)
    gone = sa.delete(Upload).where(Upload.id.in_(oldest)).returning(Upload.object_key)
    return list(session.scalars(gone.execution_options(synchronize_session=False)))


def use(session: Session, tenant_id: str, upload_ids: Sequence[str]) -> list[Upload]:
    """Return the tenant's complete uploads in the order given, now used.

    NotFound or Conflict, and then none of them is.
    """
    (found,) = use_each(session, tenant_id, [upload_ids])
    if isinstance(found, Refusal):
        raise found
    return found


def use_each(session: Session, tenant_id: str, groups: Sequence[Sequence[str]]) -> list[list[Upload] | Refusal]:
    """As `use`, for many groups in two statements: the uploads of each group, or why all of that group are left alone.

    A group fails by itself; an upload that two groups name goes to the first.
    """
    found = _locked(session, tenant_id, {upload_id for group in groups for upload_id in group})
    used: set[str] = set()
    answers: list[list[Upload] | Refusal] = []
    for group in groups:
        refusal = _refusal(group, found, used)
        answers.append(refusal or [found[upload_id] for upload_id in group])
        if refusal is None:
            used.update(group)
    if used:
        mark = sa.update(Upload).where(Upload.id.in_(used)).values(state=UploadState.USED)
        session.execute(mark.execution_options(synchronize_session=False))
    return answers


def give_back(session: Session, upload_ids: Sequence[str]) -> None:
    """Give back what `use` gave in this transaction: it is not used after all."""
    if upload_ids:
        mark = sa.update(Upload).where(Upload.id.in_(upload_ids)).values(state=UploadState.COMPLETE)
        session.execute(mark.execution_options(synchronize_session=False))


def _locked(session: Session, tenant_id: str, upload_ids: set[str]) -> dict[str, Upload]:
    mine = sa.select(Upload).where(Upload.tenant_id == tenant_id, Upload.id.in_(upload_ids))
    # In the order of ids: two requests that name the same uploads must not wait for each other.
    rows = session.scalars(mine.order_by(Upload.id).with_for_update().execution_options(populate_existing=True))
    return {upload.id: upload for upload in rows}


def _refusal(group: Sequence[str], found: dict[str, Upload], used: set[str]) -> Refusal | None:
    if not group or any(upload_id not in found for upload_id in group):
        return NotFound("no such upload")
    if len(set(group)) < len(group):
        return Conflict("an upload is named twice")
    if any(found[upload_id].state is UploadState.PENDING for upload_id in group):
        return Conflict("an upload is not complete")
    if any(upload_id in used or found[upload_id].state is UploadState.USED for upload_id in group):
        return Conflict("an upload is used by another study already")
    return None


def info_of(upload: Upload) -> ImageInfo:
    """Return what the header of a complete upload said."""
    if upload.info is None:
        raise Conflict("the upload is not complete")
    return ImageInfo(**upload.info | {"media_type": MediaType(upload.info["media_type"])})
