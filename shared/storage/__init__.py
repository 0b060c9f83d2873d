"""Where the bytes of studies are kept: one small interface over MinIO (any S3) and over a folder.

An object is written once under a generated key and is visible only when it is whole. Nothing here knows what
the bytes mean, and neither keys nor error texts hold anything that came from a client.
"""

from __future__ import annotations

from shared.config import Settings
from shared.storage.folder import FolderStorage
from shared.storage.interface import ObjectInfo, SignedPut, Storage, Stored, is_whole, object_key
from shared.storage.s3 import MinioStorage
from shared.storage.streams import SeekableObject

__all__ = [
    "FolderStorage",
    "MinioStorage",
    "ObjectInfo",
    "SeekableObject",
    "SignedPut",
    "Storage",
    "Stored",
    "is_whole",
    "object_key",
    "open_storage",
]


def open_storage(settings: Settings) -> Storage:
    """Open the store that the settings name. Connects to nothing yet; each process opens its own."""
    return MinioStorage(settings) if settings.storage == "minio" else FolderStorage(settings.storage_dir)
