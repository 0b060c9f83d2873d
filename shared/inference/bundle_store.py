"""Model bundles in the object store, under `models/<SHA-256 of the card>/<file>`.

The card and the files that it pins are stored, nothing else. What is read is checked against the SHA-256 that names the
bundle (the card) or stands in the card (the rest): bytes that were altered in the store are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydantic import ValidationError

from shared.errors import ModelError, ObjectCorrupt, ObjectNotFound
from shared.inference.bundle import CARD, Bundle, Card
from shared.storage import Storage, is_whole
from shared.storage.interface import checked

FOLDER = "models"


def push(bundle: Bundle, storage: Storage) -> None:
    """Store what the store lacks of the bundle, and what is damaged there. Register the bundle first.

    ModelError when a file is not what the card pins, or bears a name that the store does not take.
    """
    for file, digest in bundle.card.files.items():
        _store(storage, bundle.sha256, file, digest, bundle.read(file))
    _store(storage, bundle.sha256, CARD, bundle.sha256, (bundle.path / CARD).read_bytes())


def stored_files(sha256: str, storage: Storage) -> Iterator[tuple[str, bytes]]:
    """Yield the stored bundle's files, the card first, each with the bytes that are pinned.

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
    """Return the SHA-256 of the bundle that an object belongs to; None when it belongs to none."""
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
