"""Addresses that take one object: signed as botocore signs them, and bound to size and SHA-256."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from shared.storage import MinioStorage
from shared.storage.presign import checksum, signed_put
from tests.support.storage import minio_settings

SHA256 = hashlib.sha256(b"pixels").hexdigest()
HEADERS = {"x-amz-checksum-sha256": checksum(SHA256), "content-length": "6"}


def test_a_checksum_is_base64() -> None:
    assert checksum(hashlib.sha256(b"").hexdigest()) == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize(
    "address", ["https://s3.test/bucket/tenant_1/2026/01/02/abc", "http://127.0.0.1:9000/b/t/1.2-3_4"]
)
def test_the_signature_is_botocores(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now)
    request = AWSRequest(method="PUT", url=address, headers=dict(HEADERS))
    S3SigV4QueryAuth(Credentials("access", "secret/+"), "s3", "eu-west-1", expires=600).add_auth(request)
    ours = signed_put(
        urlsplit(address),
        HEADERS,
        access_key="access",
        secret_key="secret/+",
        region="eu-west-1",
        now=now,
        expires=timedelta(seconds=600),
    )
    assert parse_qs(urlsplit(ours).query) == parse_qs(urlsplit(request.url).query)
    assert urlsplit(ours)._replace(query="").geturl() == address


def test_the_address_is_where_clients_reach_the_store() -> None:
    settings = minio_settings(minio_endpoint="minio:9000", minio_public_url="https://files.test")
    signed = MinioStorage(settings).presigned_put("tenant/abc", 6, SHA256, timedelta(minutes=5))
    assert signed is not None
    url = urlsplit(signed.url)
    assert (url.scheme, url.netloc, url.path) == ("https", "files.test", "/thoraq/tenant/abc")
    assert parse_qs(url.query)["X-Amz-Expires"] == ["300"]
    assert parse_qs(url.query)["X-Amz-SignedHeaders"] == ["content-length;host;x-amz-checksum-sha256"]
    assert signed.headers == {"x-amz-checksum-sha256": checksum(SHA256)}
