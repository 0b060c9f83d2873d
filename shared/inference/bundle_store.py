"""Model bundles in the object store, under `models/<SHA-256 of the card>/<file>`, and which of them is active.

The card and the files that it pins are stored, nothing else. What is read is checked against the SHA-256 that names the
bundle (the card) or stands in the card (the rest): bytes that were altered in the store are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.db.tables import Classifier, Modality, ModelBundle
from shared.errors import ModelError, ObjectCorrupt, ObjectNotFound
from shared.inference.bundle import CARD, Bundle, Card
from shared.storage import Storage, is_whole
from shared.storage.interface import checked

FOLDER = "models"
#: What the API takes jobs for, hence what every bundle must answer.
ASKED = (
    (Classifier.BINARY, Modality.XRAY),
    (Classifier.BINARY, Modality.CT),
    (Classifier.ENSEMBLE, Modality.XRAY),
)


@dataclass(frozen=True)
class Activation:
    """Which bundle workers are to serve, and since when; activating it again makes another activation."""

    sha256: str
    activated_at: datetime | None


def check_heads(bundle: Bundle) -> None:
    """ModelError when the bundle lacks a classifier that jobs may ask for."""
    for classifier, modality in ASKED:
        bundle.head_for(classifier, modality)


def register(session: Session, bundle: Bundle) -> None:
    """The bundle's row, unless it is there; while it is, the sweeper leaves the bundle's objects alone."""
    card = bundle.card.model_dump(mode="json")
    row = {"sha256": bundle.sha256, "name": bundle.name, "version": bundle.version, "card": card}
    session.execute(insert(ModelBundle).values(row).on_conflict_do_nothing())


def active(session: Session) -> Activation | None:
    """The bundle that workers are to serve; None while none was activated."""
    row = session.execute(sa.select(ModelBundle.sha256, ModelBundle.activated_at).where(ModelBundle.active)).first()
    return None if row is None else Activation(row.sha256, row.activated_at)


def activate(session: Session, sha256: str) -> None:
    """Make this bundle, whose row exists, the active one."""
    # Two at a time would each deactivate what they see and then meet in the index: the second waits here. Results that
    # name a bundle go on meanwhile, which FOR UPDATE would stop.
    session.execute(sa.select(ModelBundle.sha256).order_by(ModelBundle.sha256).with_for_update(key_share=True)).all()
    session.execute(sa.update(ModelBundle).where(ModelBundle.active).values(active=False))
    now = {"active": True, "activated_at": sa.func.now()}
    session.execute(sa.update(ModelBundle).where(ModelBundle.sha256 == sha256).values(now))


def push(bundle: Bundle, storage: Storage) -> None:
    """Store what the store lacks of the bundle, and what is damaged there. Register the bundle first.

    ModelError when a file is not what the card pins, or bears a name that the store does not take.
    """
    for file, digest in bundle.card.files.items():
        _store(storage, bundle.sha256, file, digest, bundle.read(file))
    _store(storage, bundle.sha256, CARD, bundle.sha256, (bundle.path / CARD).read_bytes())


def stored_files(sha256: str, storage: Storage) -> Iterator[tuple[str, bytes]]:
    """The stored bundle's files, the card first, each with the bytes that are pinned.

    ModelError names the file that is missing or altered in the store.
    """
    raw = _get(storage, sha256, CARD, sha256)
    yield CARD, raw
    for file, digest in _parse(raw).files.items():
        yield file, _get(storage, sha256, file, digest)


def check(sha256: str, storage: Storage) -> None:
    """ModelError unless the whole bundle is in the store, unaltered. Reads all of it."""
    for _ in stored_files(sha256, storage):
        pass


def fetch(sha256: str, storage: Storage, folder: Path) -> None:
    """Write the stored bundle into an empty folder; ModelError as for `stored_files`."""
    for file, content in stored_files(sha256, storage):
        (folder / file).write_bytes(content)


def bundle_of(key: str) -> str | None:
    """The SHA-256 of the bundle that an object belongs to; None when it belongs to none."""
    folder, _, rest = key.partition("/")
    return rest.partition("/")[0] if folder == FOLDER else None


def _key(sha256: str, file: str) -> str:
    try:
        return checked(f"{FOLDER}/{sha256}/{file}")
    except ValueError:
        raise ModelError(f"{file}: not a name that the object store takes") from None


def _store(storage: Storage, sha256: str, file: str, digest: str, content: bytes) -> None:
    key = _key(sha256, file)
    if not is_whole(storage, key, digest) and storage.put(key, BytesIO(content)).sha256 != digest:
        raise ModelError(f"{file}: changed while it was read")


def _get(storage: Storage, sha256: str, file: str, digest: str) -> bytes:
    try:
        return storage.get(_key(sha256, file), expect_sha256=digest)
    except ObjectNotFound as error:
        raise ModelError(f"{file}: missing in the object store") from error
    except ObjectCorrupt as error:
        raise ModelError(f"{file}: its SHA-256 in the object store is not the one that is pinned") from error


def _parse(raw: bytes) -> Card:
    try:
        return Card.model_validate_json(raw)
    except ValidationError as error:
        # The bytes are the ones that were pushed; whoever pushed them has read them.
        raise ModelError(f"{CARD}: made for another version of Thoraq") from error
