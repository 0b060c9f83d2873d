"""An address that lets its bearer put one object: AWS Signature Version 4 in the query, with headers signed too.

The `minio` client signs no headers into an address. Without them it would take bytes of any size and content.
Amazon S3 API reference, "Authenticating requests: using query parameters".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime, timedelta
from functools import reduce
from urllib.parse import SplitResult, quote, urlencode

ALGORITHM = "AWS4-HMAC-SHA256"
CHECKSUM = "x-amz-checksum-sha256"


def checksum(sha256: str) -> str:
    """Return a SHA-256 as S3's checksum headers write it: base64, where ours are hexadecimal."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def signed_put(
    address: SplitResult,
    headers: dict[str, str],
    *,
    access_key: str,
    secret_key: str,
    region: str,
    now: datetime,
    expires: timedelta,
) -> str:
    """Sign an address (no query, path as sent) for a PUT with these headers, good from `now` (UTC) for `expires`."""
    signed = {"host": address.netloc} | {name.lower(): value for name, value in headers.items()}
    names = ";".join(sorted(signed))
    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    query = urlencode(
        {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{access_key}/{scope}",
            "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": int(expires.total_seconds()),
            "X-Amz-SignedHeaders": names,
        },
        quote_via=quote,
        safe="",
    )
    lines = [f"{name}:{value}" for name, value in sorted(signed.items())]
    request = "\n".join(["PUT", address.path, query, *lines, "", names, "UNSIGNED-PAYLOAD"])
    text = "\n".join([ALGORITHM, f"{now:%Y%m%dT%H%M%SZ}", scope, hashlib.sha256(request.encode()).hexdigest()])
    key = reduce(_mac, scope.split("/"), f"AWS4{secret_key}".encode())
    return address._replace(query=f"{query}&X-Amz-Signature={_mac(key, text).hex()}").geturl()


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
