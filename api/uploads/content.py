"""The API's own upload addresses, for a store that has none: the signature is the authority, no key is asked for.

Outside /v1, where everything needs a key. The bytes are streamed to the store and compared on their way, so the store
only ever holds those that were announced.
"""

from __future__ import annotations

import hashlib
import io
import time
from datetime import timedelta
from typing import BinaryIO, cast
from urllib.parse import parse_qsl, urlencode

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from itsdangerous import Signer

from api.http.openapi.document import ERRORS
from api.http.services import Services, services
from api.uploads.schemas import ContentQuery, UploadPath
from shared.db.tables import Upload, UploadState
from shared.errors import AddressRefused, Conflict, UploadMismatch
from shared.storage import SignedPut
from shared.studies import direct_uploads

blueprint = APIBlueprint("contents", __name__, abp_tags=[Tag(name="uploads")], abp_responses=ERRORS)

#: Of these addresses' paths.
PREFIX = "/uploads/"
CONTENT = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class AnnouncedBytes(io.RawIOBase):
    """The request's body, which ends in UploadMismatch when it is not what was announced: so nothing is stored."""

    def __init__(self, body: BinaryIO, size: int, sha256: str) -> None:
        self._body, self._left, self._sha256 = body, size, sha256
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Return the body's next bytes; UploadMismatch at the end, or as soon as there are too many."""
        chunk = self._body.read(size)
        self._left -= len(chunk)
        self._hash.update(chunk)
        if self._left < 0 or (not chunk and self._left):
            raise UploadMismatch("the size is not the announced one")
        if not chunk and self._hash.hexdigest() != self._sha256:
            raise UploadMismatch("the SHA-256 is not the announced one")
        return chunk


def own_address(service: Services, upload: Upload, lifetime: timedelta) -> SignedPut:
    """Return an address of this API that takes the upload's bytes for as long as `lifetime`."""
    expires = int(time.time() + lifetime.total_seconds())
    signature = _signer(service).get_signature(_signed(upload.id, upload.tenant_id, expires))
    query = urlencode({"tenant": upload.tenant_id, "expires": expires, "signature": signature})
    origin = service.settings.public_url or request.url_root.rstrip("/")
    return SignedPut(f"{origin}/uploads/{upload.id}/content?{query}", {})


def _signer(service: Services) -> Signer:
    # The salt keeps these signatures apart from the page's sessions, which the same key signs.
    return Signer(
        service.settings.secret_key.get_secret_value(),
        salt="upload-content",
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )


def _signed(upload_id: str, tenant_id: str, expires: int) -> str:
    return f"{upload_id} {tenant_id} {expires}"


def tenant_of_address(service: Services, path: str, query: str) -> str | None:
    """Return the tenant for which an address was given out; None for one that was not."""
    upload_id = path.removeprefix(PREFIX).removesuffix("/content")
    asked = dict(parse_qsl(query))
    try:
        signed = _signed(upload_id, asked["tenant"], int(asked["expires"]))
        genuine = _signer(service).verify_signature(signed, asked["signature"])
    except (KeyError, ValueError):
        return None
    return asked["tenant"] if genuine else None


@blueprint.put(
    "/uploads/<string:upload_id>/content",
    responses={"204": {"description": "Stored; complete the upload now"}},
    openapi_extensions=CONTENT,
)
def put_content(path: UploadPath, query: ContentQuery) -> Response:
    """Take the bytes of an announced file, at the address that was given out for it."""
    service = services()
    if not _signer(service).verify_signature(_signed(path.upload_id, query.tenant, query.expires), query.signature):
        raise AddressRefused("the address is not one that was given out")
    if query.expires < time.time():
        raise AddressRefused("the address's time is over")
    with service.database.of(query.tenant).transaction() as session:
        upload = direct_uploads.find(session, query.tenant, path.upload_id)
    if upload.state is not UploadState.PENDING:
        raise Conflict("the upload is complete already")
    service.admission.check_capacity(upload.size_bytes)
    # One more than can be right: a stream that is read to just its limit counts as too long.
    request.max_content_length = upload.size_bytes + 1
    body = AnnouncedBytes(cast(BinaryIO, request.stream), upload.size_bytes, upload.sha256)
    service.storage.put(upload.object_key, cast(BinaryIO, body))
    return Response(status=204)
