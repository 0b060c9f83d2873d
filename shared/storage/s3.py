"""The MinIO driver: any store that speaks S3, through the `minio` client."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import BinaryIO
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from shared.config import Settings
from shared.errors import ObjectNotFound, StorageError
from shared.storage.interface import ObjectInfo, SignedPut, Stored, checked, split_prefix
from shared.storage.presign import CHECKSUM, checksum, signed_put
from shared.storage.streams import CHUNK, Body, HashingReader, verified

_LEAST_PART, _MOST_PARTS = 5 * 1024 * 1024, 10_000  # Amazon S3 user guide, "multipart upload limits"


class MinioStorage:
    """Objects in one bucket of MinIO or another S3. May be shared by threads, not by processes."""

    #: Each request is mostly waiting, and nothing is shared between those of a group.
    writers, group = 8, 8

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.minio_bucket
        # The least that S3 takes, because an upload holds a few parts in memory; 10,000 of them are 52 GB. Only a
        # larger THORAQ_MAX_UPLOAD_BYTES needs larger parts.
        self._part_size = max(_LEAST_PART, math.ceil(settings.max_upload_bytes / _MOST_PARTS))
        self._client = _client(settings, connect=5, read=30, retries=2)
        self._probe = _client(settings, connect=2, read=3, retries=0)
        self._settings, self._public = settings, _public_client(settings)

    def put(self, key: str, source: BinaryIO) -> Stored:
        """One request up to 5 MiB, a multipart upload above, which is aborted when it fails."""
        checked(key)
        reader = HashingReader(source)
        with _s3_errors(reader), io.BufferedReader(reader, CHUNK) as data:
            # One part at a time: the client's threads would each hold one, and outlive a source that fails.
            written = self._client.put_object(
                self._bucket, key, data, length=-1, part_size=self._part_size, num_parallel_uploads=1
            )
        # S3 may end an upload with status 200 and an error in the body, which the client takes for success.
        if not written.etag:
            raise StorageError("the object store did not confirm an upload")
        return reader.stored(key)

    def put_many(self, objects: Iterable[tuple[str, BinaryIO]]) -> list[Stored]:
        return [self.put(key, source) for key, source in objects]

    def get(self, key: str, expect_sha256: str | None = None) -> bytes:
        with self.open(key) as body:
            return verified(body.read(), expect_sha256)

    def open(self, key: str) -> BinaryIO:
        with _s3_errors():
            response = self._client.get_object(self._bucket, checked(key))
        return io.BufferedReader(Body(response, _s3_errors), CHUNK)

    def read(self, key: str, offset: int, length: int) -> bytes:
        with _s3_errors():
            response = self._client.get_object(self._bucket, checked(key), offset, length)
        with Body(response, _s3_errors) as body:
            return body.readall()

    def stat(self, key: str) -> ObjectInfo:
        with _s3_errors():
            found = self._client.stat_object(
                self._bucket, checked(key), extra_headers={"x-amz-checksum-mode": "ENABLED"}
            )
        if found.size is None or found.last_modified is None:
            raise StorageError("the object store described an object without size or time")
        return ObjectInfo(key, found.size, found.last_modified, _compared(found.metadata or {}))

    def delete(self, key: str) -> None:
        with _s3_errors():
            self._client.remove_object(self._bucket, checked(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        split_prefix(prefix)
        with _s3_errors():
            for entry in self._client.list_objects(self._bucket, prefix, recursive=True):
                if entry.object_name is None or entry.size is None or entry.last_modified is None:
                    raise StorageError("the object store listed an object without name, size or time")
                yield ObjectInfo(entry.object_name, entry.size, entry.last_modified)

    def presigned_get(self, key: str, expires: timedelta) -> str | None:
        """Signed here, without asking the store whether the object is there."""
        return self._client.presigned_get_object(self._bucket, checked(key), expires)

    def presigned_put(self, key: str, size: int, sha256: str, expires: timedelta) -> SignedPut | None:
        """Signed here too, for the address at which clients reach the store."""
        headers = {CHECKSUM: checksum(sha256)}
        # Signed once more with the headers: the client is asked for the address, which each kind of S3 writes its way.
        address = urlsplit(self._public.get_presigned_url("PUT", self._bucket, checked(key)))
        url = signed_put(
            address._replace(query=""),
            headers | {"content-length": str(size)},
            access_key=self._settings.minio_access_key.get_secret_value(),
            secret_key=self._settings.minio_secret_key.get_secret_value(),
            region=self._settings.minio_region,
            now=datetime.now(UTC),
            expires=expires,
        )
        return SignedPut(url, headers)

    def prepared(self) -> bool:
        with _s3_errors():
            return self._client.bucket_exists(self._bucket)

    def prepare(self) -> None:
        """Make the bucket unless it is there: a key that may use the bucket need not be allowed to make one."""
        if self.prepared():
            return
        with _s3_errors():
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # another process was faster
                    raise

    def check(self) -> None:
        """Through a client of its own, with no retries, so that /readyz answers while the store hangs."""
        with _s3_errors():
            if not self._probe.bucket_exists(self._bucket):
                raise StorageError("the bucket is missing: run `thoraq-admin migrate`")


def _client(settings: Settings, connect: float, read: float, retries: int) -> Minio:
    pool = urllib3.PoolManager(
        maxsize=32,  # idle connections kept, one for each thread that a process may have
        timeout=urllib3.Timeout(connect=connect, read=read),
        # Retry-After is not obeyed: it may be minutes, and our own callers have a time to come back.
        retries=urllib3.Retry(
            retries, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), respect_retry_after_header=False
        ),
    )
    return _minio(settings, settings.minio_endpoint, settings.minio_secure, pool)


def _public_client(settings: Settings) -> Minio:
    """For signing only: it is never connected."""
    if not settings.minio_public_url:
        return _minio(settings, settings.minio_endpoint, settings.minio_secure)
    address = urlsplit(settings.minio_public_url)
    return _minio(settings, address.netloc, address.scheme == "https")


def _minio(settings: Settings, endpoint: str, secure: bool, pool: urllib3.PoolManager | None = None) -> Minio:
    return Minio(
        endpoint,
        access_key=settings.minio_access_key.get_secret_value(),
        secret_key=settings.minio_secret_key.get_secret_value(),
        secure=secure,
        region=settings.minio_region,
        http_client=pool,
    )


def _compared(headers: Mapping[str, str]) -> str | None:
    """Return the SHA-256 that the store says it has compared the whole object with.

    A multipart upload has one per part.
    """
    value = headers.get(CHECKSUM, "")
    return None if not value or "-" in value else base64.b64decode(value).hex()


@contextmanager
def _s3_errors(reader: HashingReader | None = None) -> Iterator[None]:
    try:
        yield
    except (MinioException, HTTPError, ParseError) as error:
        if reader is not None and error is reader.failure:  # the sender's fault, not the store's
            raise
        if isinstance(error, S3Error) and error.code == "NoSuchKey":
            raise ObjectNotFound from error
        reason = error.code if isinstance(error, S3Error) else type(error).__name__
        raise StorageError(f"the object store failed: {reason}") from error
