"""The HTTP edge under test: Flask's client on the real database, store and Redis; no worker runs.

Where a job must go on, the test is the worker: it claims and finishes through shared/jobs/states.py, as a worker does.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.http.services import EXTENSION
from shared import keys
from shared.db.engine import Database
from shared.db.tables import Tenant
from shared.errors import ThoraqError
from shared.jobs import states
from shared.jobs.claims import Claim, Outcome
from shared.keys import Scope
from shared.log import Lines
from tests.support.rows import POLICY, add_bundle, answer, take

MakeApp = Callable[..., Flask]
SAMPLES = Path(__file__).parents[2] / "samples"
PNG = (SAMPLES / "xray-normal.png").read_bytes()
XRAY_DICOM = (SAMPLES / "xray-normal.dcm").read_bytes()
CT_DICOM = (SAMPLES / "ct-slice.dcm").read_bytes()
TEXT = b"this is no picture"


def new_key(database: Database, *scopes: Scope, tenant: str = "north", expires_at: datetime | None = None) -> str:
    """A key of a tenant, which is made when it is missing; every scope unless told otherwise."""
    with database.transaction() as session:
        owner = keys.tenant_named(session, tenant)
        return keys.create(session, owner, "test", list(scopes or Scope), expires_at, actor="test").key


def keep_identities(database: Database) -> None:
    """From now on every tenant's DICOM files are kept as they are sent."""
    with database.transaction() as session:
        session.execute(sa.update(Tenant).values(keep_identity=True))


@dataclass(frozen=True)
class Caller:
    """Somebody with a key."""

    client: FlaskClient
    key: str

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> TestResponse:
        """A request with the key."""
        return self.client.open(
            path, method=method, headers={"Authorization": f"Bearer {self.key}"} | (headers or {}), **options
        )

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.call("POST", path, **options)

    def send(
        self, *files: bytes, path: str = "/v1/jobs", headers: dict[str, str] | None = None, **fields: Any
    ) -> TestResponse:
        """Files and fields as multipart; for a job the classifier is `binary` unless told otherwise (None: none)."""
        if path != "/v1/studies":
            fields = {"classifier": "binary"} | fields
        data: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        data["files"] = [(BytesIO(content), f"{number}.png") for number, content in enumerate(files)]
        return self.call("POST", path, headers=headers, data=data, content_type="multipart/form-data")

    def submit(self, *files: bytes, **fields: Any) -> dict[str, Any]:
        """A job of these files, or of one X-ray; its envelope."""
        fields = {"modality": "xray"} | fields
        job: dict[str, Any] = json_of(self.send(*(files or (PNG,)), **fields), 202)
        return job


def multipart(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """Options for a body of the parts (header, content), byte for byte, as no client would send it."""
    body = b"".join(b"--limit\r\n%s\r\n\r\n%s\r\n" % (head.encode(), content) for head, content in parts)
    return {"data": body + b"--limit--\r\n", "content_type": "multipart/form-data; boundary=limit"}


def part(name: str, content: bytes) -> tuple[str, bytes]:
    """A field for `multipart`."""
    return f'Content-Disposition: form-data; name="{name}"', content


def file_part(content: bytes, name: str = "files") -> tuple[str, bytes]:
    """A file for `multipart`."""
    return f'Content-Disposition: form-data; name="{name}"; filename="x.png"', content


def objects(client: FlaskClient) -> list[str]:
    """The keys of everything in the store."""
    return [info.key for info in client.application.extensions[EXTENSION].storage.list("")]


def record_log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the application that was made last logs from now on, as it would be printed."""
    stream = io.StringIO()
    monkeypatch.setattr(Lines, "stream", stream)
    (handler,) = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
    handler.setStream(stream)
    return stream


def json_of(response: TestResponse, status: int = 200) -> Any:
    """The body, when the status is the expected one."""
    assert response.status_code == status, response.text
    return response.get_json()


def problem_of(response: TestResponse, status: int, kind: str) -> Any:
    """The problem document, checked for what every one of them has (RFC 9457)."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    body = json.loads(response.data)
    assert body["type"].endswith(f"/problems#{kind}"), body
    assert body["status"] == status
    assert body["title"]
    assert body["instance"] == f"urn:request:{response.headers['X-Request-Id']}"
    return body


def fields_of(response: TestResponse) -> list[str]:
    """The fields that an invalid request's problem names."""
    return [error["field"] for error in problem_of(response, 422, "invalid-request")["errors"]]


def claim_all(database: Database) -> list[Claim]:
    """As a worker: every job that waits."""
    claims: list[Claim] = []
    with database.transaction() as session:
        while more := take(session, max_images=100):
            claims += more
    return claims


def finish(database: Database, *outcomes: Outcome) -> list[str]:
    """As a worker: write how claims ended; the jobs whose lease was lost."""
    with database.transaction() as session:
        add_bundle(session)
        return states.finish(session, outcomes, POLICY)


def work(database: Database, error: ThoraqError | None = None) -> None:
    """As a worker: every job that waits succeeds, or fails with the error."""
    outcomes = [answer(claim) if error is None else Outcome(claim, error=error) for claim in claim_all(database)]
    finish(database, *outcomes)
