"""What both drivers promise, and the keys that both take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Protocol

import uuid_utils

from shared.errors import ObjectCorrupt, ObjectNotFound

# A segment begins with a letter or digit: neither `..` nor a name that begins with a dot, as the folder driver's
# own have, can be part of a key.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})*")


@dataclass(frozen=True)
class Stored:
    """What a put has written: SHA-256 as 64 hexadecimal digits, size in bytes."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ObjectInfo:
    """An object as the store describes it: size in bytes, time of the last write in UTC.

    `sha256`, hexadecimal, is there when the store itself compared the bytes with it as they came in.
    """

    key: str
    size: int
    modified: datetime
    sha256: str | None = None


@dataclass(frozen=True)
class SignedPut:
    """An address that takes one object without credentials, from a PUT with these headers."""

    url: str
    headers: dict[str, str]


class Storage(Protocol):
    """The interface. A malformed key is a ValueError everywhere, a store that fails a StorageError.

    `writers`: so many threads that put small objects at once get the most done, with `group` of them at a time.
    """

    writers: int
    group: int

    def put(self, key: str, source: BinaryIO) -> Stored:
        """Write all that `source.read` gives, in flat memory; what `source` raises passes through unchanged."""

    def put_many(self, objects: Iterable[tuple[str, BinaryIO]]) -> list[Stored]:
        """As `put`, for small objects that are there together: all are when it returns; when it fails, some may be."""

    def get(self, key: str, expect_sha256: str | None = None) -> bytes:
        """Return the whole object; ObjectNotFound, or ObjectCorrupt when its SHA-256 is not the expected one."""

    def open(self, key: str) -> BinaryIO:
        """Return the object as a stream, to be closed (`with`); ObjectNotFound already here, not at the first read."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """At most `length` (1 or more) bytes of the object from `offset`, which lies in it; ObjectNotFound."""

    def stat(self, key: str) -> ObjectInfo:
        """Return what the store knows of the object without reading it; ObjectNotFound."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is fine."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Return the objects whose key begins with `prefix` ("" for all), in the order of their keys.

        Some S3 servers (SeaweedFS) list what stands below a slash first: nobody may depend on the order.
        """

    def presigned_get(self, key: str, expires: timedelta) -> str | None:
        """Return an address that gives the object without credentials (1 s to 7 days); None when the store has none."""

    def presigned_put(self, key: str, size: int, sha256: str, expires: timedelta) -> SignedPut | None:
        """Return an address that takes an object of this size and SHA-256 (1 s to 7 days), or None."""

    def prepared(self) -> bool:
        """Whether the folder or bucket is there; StorageError when the store cannot be asked."""

    def prepare(self) -> None:
        """Make the folder or bucket; doing it again is fine. Nothing else makes it."""

    def check(self) -> None:
        """Return when the store can be reached and is prepared; StorageError within seconds otherwise."""


def object_key(tenant_id: str) -> str:
    """Return a fresh key, `tenant/year/month/day/uuid7`: lists by tenant and day, and holds nothing from the client."""
    return f"{tenant_id}/{datetime.now(UTC):%Y/%m/%d}/{uuid_utils.uuid7().hex}"


def is_whole(storage: Storage, key: str, sha256: str) -> bool:
    """Whether the object is there with this SHA-256; reads all of it. StorageError when the store cannot be asked."""
    try:
        storage.get(key, expect_sha256=sha256)
    except (ObjectNotFound, ObjectCorrupt):
        return False
    return True


def checked(key: str) -> str:
    """Return the key, or ValueError when it is none; the same rule for both drivers."""
    if not _KEY.fullmatch(key):
        raise ValueError("not an object key")
    return key


def split_prefix(prefix: str) -> tuple[str, str]:
    """Return a prefix as (key of a directory, or "" for the top; beginning of a name in it).

    ValueError as for a key.
    """
    directory, slash, stem = prefix.rpartition("/")
    return checked(directory) if slash else "", stem
