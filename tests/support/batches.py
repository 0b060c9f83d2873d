"""Batches for the tests: archives and lines as clients send them, and what the API says of them afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from typing import Any
from urllib.parse import urlencode, urlsplit
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from werkzeug.test import TestResponse

from tests.support.api import Caller, json_of
from tests.support.waiting import EVENT_SECONDS


def packed(*members: tuple[str, bytes], method: int = ZIP_STORED) -> bytes:
    """A ZIP of the members."""
    archive = io.BytesIO()
    with ZipFile(archive, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return archive.getvalue()


def streamed(*members: tuple[str, bytes]) -> bytes:
    """A ZIP as it is made on the way: sizes come after the members."""

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            parts.append(bytes(data))
            return len(data)

    parts: list[bytes] = []
    with ZipFile(Sink(), "w", ZIP_DEFLATED) as file:
        for name, content in members:
            with file.open(name, "w") as member:
                member.write(content)
    return b"".join(parts)


def post_zip(caller: Caller, archive: bytes, key: str | None = None, **options: Any) -> TestResponse:
    """The archive as a batch of X-rays for the binary classifier, unless told otherwise."""
    return _post(caller, archive, "application/zip", key, {"classifier": "binary", "modality": "xray"} | options)


def post_held(caller: Caller, archive: bytes, go: threading.Event, key: str) -> TestResponse:
    """The archive as a batch; its second half comes once `go` is set."""
    query = urlencode({"classifier": "binary", "modality": "xray"})
    headers = {"Idempotency-Key": key, "Content-Length": str(len(archive))}
    return caller.post(
        f"/v1/batches?{query}", headers=headers, input_stream=Held(archive, go), content_type="application/zip"
    )


class Held(io.BytesIO):
    """A body that stops half-way until it may go on."""

    def __init__(self, body: bytes, go: threading.Event) -> None:
        super().__init__(body)
        self._half, self._go = len(body) // 2, go

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() < self._half:
            return super().read(min(size or 0, self._half - self.tell()) if size and size > 0 else self._half)
        assert self._go.wait(EVENT_SECONDS)
        return super().read(size)

    def readinto(self, buffer: Any) -> int:
        """What werkzeug calls, if there is one."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def post_lines(caller: Caller, *lines: Any, key: str | None = None, **options: Any) -> TestResponse:
    """The lines as a batch; text as it is, everything else as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    body = "".join(f"{text}\n" for text in texts).encode()
    return _post(caller, body, "application/x-ndjson", key, {"classifier": "binary", "modality": "xray"} | options)


def _post(caller: Caller, body: bytes, kind: str, key: str | None, options: dict[str, Any]) -> TestResponse:
    query = urlencode({name: value for name, value in options.items() if value is not None})
    headers = {} if key is None else {"Idempotency-Key": key}
    return caller.post(f"/v1/batches?{query}", headers=headers, data=body, content_type=kind)


def counts(**given: int) -> dict[str, int]:
    """Counts of a batch, those that are not given being 0."""
    states = ("total", "queued", "running", "succeeded", "failed", "cancelled", "quarantined", "rejected")
    return dict.fromkeys(states, 0) | given


def output(caller: Caller, batch_id: str, table: str) -> list[dict[str, Any]]:
    """The lines of a batch's results or errors."""
    response = caller.get(f"/v1/batches/{batch_id}/{table}")
    assert response.status_code == 200, response.text
    assert response.mimetype == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def errors(caller: Caller, batch_id: str) -> list[tuple[int, str | None, str, str | None]]:
    """Item, member, status and problem type of each item without an answer."""
    lines = output(caller, batch_id, "errors")
    return [(line["item"], line["member"], line["status"], (line["problem"] or {}).get("type")) for line in lines]


def upload(caller: Caller, content: bytes) -> str:
    """The id of a complete direct upload."""
    file = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (made,) = json_of(caller.post("/v1/uploads", json={"files": [file]}), 201)["data"]
    address = urlsplit(made["url"])
    assert caller.client.put(f"{address.path}?{address.query}", data=content).status_code == 204
    json_of(caller.post(f"/v1/uploads/{made['id']}/complete"))
    upload_id: str = made["id"]
    return upload_id
