"""Streams and settings for the tests of storage."""

from __future__ import annotations

import io
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from shared.config import Settings

if TYPE_CHECKING:
    from tests.conftest import S3

MIB = 1024 * 1024
BLOCK = bytes(range(256)) * 256  # 64 KiB, the size of a read from a socket


class Generated(io.RawIOBase):
    """A stream that is nowhere whole: `size` bytes, handed out in short reads; `at_half` is called on the way."""

    def __init__(self, size: int, at_half: Callable[[], None] = lambda: None) -> None:
        self.size = self.left = size
        self.at_half = at_half

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0
        if self.left < self.size / 2:
            self.at_half()
        chunk = BLOCK[: min(size, self.left)]
        self.left -= len(chunk)
        return chunk


def generated(size: int, at_half: Callable[[], None] = lambda: None) -> BinaryIO:
    return cast("BinaryIO", Generated(size, at_half))


def minio_settings(**changes: object) -> Settings:
    fields: dict[str, object] = {
        "database_url": "postgresql+psycopg://",
        "redis_url": "redis://",
        "secret_key": "0" * 32,
        "storage": "minio",
        "minio_access_key": "key",
        "minio_secret_key": "secret",
        "minio_secure": False,
    }
    return Settings.model_validate(fields | changes)


def settings_of(s3: S3) -> Settings:
    return minio_settings(
        minio_endpoint=s3.endpoint,
        minio_access_key=s3.access_key,
        minio_secret_key=s3.secret_key,
        minio_bucket=s3.bucket,
    )


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the kernel refuse to write beyond `size` bytes, as a full disk does: write(2) fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
