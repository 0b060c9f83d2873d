"""The MinIO driver's own promises; what both drivers promise is in test_storage.py."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from shared.config import Settings
from shared.errors import StorageError
from shared.storage import MinioStorage, object_key, open_storage
from tests.support.storage import MIB, generated, minio_settings, settings_of

if TYPE_CHECKING:
    from tests.conftest import S3


@pytest.fixture
def s3_settings(s3: S3) -> Settings:
    return settings_of(s3)


@pytest.fixture
def minio(s3_settings: Settings) -> MinioStorage:
    return MinioStorage(s3_settings)


@pytest.fixture
def key() -> str:
    return object_key("tenant_1")


def test_settings_choose_the_bucket(s3_settings: Settings, minio: MinioStorage, key: str) -> None:
    open_storage(s3_settings).put(key, io.BytesIO(b"pixels"))
    assert minio.get(key) == b"pixels"


def test_failed_upload_leaves_no_parts_on_the_server(s3: S3, minio: MinioStorage, key: str) -> None:
    uploads: list[str] = []

    def fail() -> None:
        uploads.append(httpx.get(f"http://{s3.endpoint}/{s3.bucket}?uploads").text)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        minio.put(key, generated(16 * MIB, at_half=fail))
    assert key in uploads[0]
    assert key not in httpx.get(f"http://{s3.endpoint}/{s3.bucket}?uploads").text


def test_presigned_address_is_fetched_without_credentials(minio: MinioStorage, key: str) -> None:
    minio.put(key, io.BytesIO(b"pixels"))
    address = minio.presigned_get(key, timedelta(minutes=5))
    assert address is not None
    assert "X-Amz-Expires=300" in address
    assert httpx.get(address).content == b"pixels"


def test_missing_bucket(s3_settings: Settings, key: str) -> None:
    storage = MinioStorage(s3_settings.model_copy(update={"minio_bucket": "thoraq-nowhere"}))
    with pytest.raises(StorageError, match="thoraq-admin migrate"):
        storage.check()
    with pytest.raises(StorageError):
        storage.put(key, io.BytesIO(b"pixels"))
    with pytest.raises(StorageError):
        storage.get(key)
    with pytest.raises(StorageError):
        storage.delete(key)
    with pytest.raises(StorageError):
        list(storage.list(""))


def test_many_processes_prepare_at_once(s3_settings: Settings, key: str) -> None:
    # Outside us-east-1 S3 refuses to make one's own bucket a second time.
    changes = {"minio_bucket": "thoraq-race", "minio_region": "eu-west-1"}
    storages = [MinioStorage(s3_settings.model_copy(update=changes)) for _ in range(8)]
    start = threading.Barrier(len(storages))

    def prepare(storage: MinioStorage) -> None:
        start.wait()
        storage.prepare()

    with ThreadPoolExecutor(len(storages)) as pool:
        list(pool.map(prepare, storages))
    storages[0].put(key, io.BytesIO(b"pixels"))
    assert storages[1].get(key) == b"pixels"


def test_connections_are_given_back(s3: S3, minio: MinioStorage, key: str) -> None:
    minio.put(key, generated(8 * MIB))
    port = int(s3.endpoint.rpartition(":")[2])

    def connections() -> int:
        opened = psutil.Process().net_connections("tcp")
        return sum(1 for c in opened if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED)

    before = connections()
    for _ in range(20):
        minio.get(key)
        with minio.open(key) as body:
            body.read(10)
    assert connections() <= before


def test_unreachable_server(key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        storage = MinioStorage(minio_settings(minio_endpoint=f"127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(StorageError):
            storage.check()
        with pytest.raises(StorageError):
            storage.prepare()
        with pytest.raises(StorageError):
            storage.put(key, io.BytesIO(b"pixels"))
        with pytest.raises(StorageError):
            storage.get(key)


class FailingS3(BaseHTTPRequestHandler):
    """Answers as S3 does on its bad days, which the well-behaved server of the other tests never has."""

    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes, promised: int | None = None) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        if "uploadId=" in self.path:
            self.answer(
                b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
            )
        else:
            self.answer(b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")

    def do_PUT(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self.answer(b"<html><p>proxy</html>")
        else:
            self.answer(b"pix", promised=6)
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Keep the test's output clean."""


@pytest.fixture
def failing() -> Iterator[MinioStorage]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FailingS3)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield MinioStorage(minio_settings(minio_endpoint=f"127.0.0.1:{server.server_port}"))
    server.shutdown()
    thread.join()
    server.server_close()


def test_upload_that_ends_with_an_error_under_status_200(failing: MinioStorage, key: str) -> None:
    with pytest.raises(StorageError, match="confirm"):
        failing.put(key, generated(6 * MIB))


def test_connection_lost_while_reading(failing: MinioStorage, key: str) -> None:
    with pytest.raises(StorageError):
        failing.get(key)


def test_answer_that_is_not_s3(failing: MinioStorage) -> None:
    with pytest.raises(StorageError):
        list(failing.list(""))
