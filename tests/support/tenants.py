"""What a hospital can own, made through its API: for the tests of who may come near it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from api.http.services import EXTENSION
from shared.db.engine import Database
from tests.support.answers import answered, spot
from tests.support.api import PNG, Caller, claim_all, finish, json_of

#: An id that nobody has, without its prefix.
UNKNOWN = "0" * 32


@contextmanager
def owner_of(caller: Caller) -> Iterator[Database]:
    """The database as workers see it."""
    database = Database(caller.client.application.extensions[EXTENSION].settings, pool_size=1)
    yield database
    database.close()


def job(caller: Caller) -> dict[str, str]:
    return {"job": caller.submit()["id"]}


def artifact(caller: Caller) -> dict[str, str]:
    ids = job(caller)
    with owner_of(caller) as database:
        finish(database, *(answered(claim, spot()) for claim in claim_all(database)))
    (found,) = json_of(caller.get(f"/v1/jobs/{ids['job']}/artifacts"))["data"]
    return ids | {"artifact": found["id"]}


def study(caller: Caller) -> dict[str, str]:
    made = json_of(caller.send(PNG, path="/v1/studies", modality="xray"), 201)
    return {"study": made["id"], "image": made["images"][0]["id"]}


def open_study(caller: Caller) -> dict[str, str]:
    body = {"open": True, "modality": "xray", "classifiers": ["binary"]}
    return {"study": json_of(caller.post("/v1/studies", json=body), 201)["id"]} | pending_upload(caller)


def pending_upload(caller: Caller) -> dict[str, str]:
    file = {"size_bytes": len(PNG), "sha256": hashlib.sha256(PNG).hexdigest()}
    (made,) = json_of(caller.post("/v1/uploads", json={"files": [file]}), 201)["data"]
    address = urlsplit(made["url"])
    assert caller.client.put(f"{address.path}?{address.query}", data=PNG).status_code == 204
    return {"upload": made["id"]}


def complete_upload(caller: Caller) -> dict[str, str]:
    ids = pending_upload(caller)
    json_of(caller.post(f"/v1/uploads/{ids['upload']}/complete"))
    return ids


def batch(caller: Caller) -> dict[str, str]:
    return {"batch": json_of(caller.send(PNG, path="/v1/batches", modality="xray"), 202)["id"]}


def endpoint(caller: Caller) -> dict[str, str]:
    body = {"url": "http://127.0.0.1/", "events": ["*"]}
    made = json_of(caller.post("/v1/webhook-endpoints", json=body), 201)
    sent = json_of(caller.post(f"/v1/webhook-endpoints/{made['id']}/test"), 202)
    return {"endpoint": made["id"], "delivery": sent["id"]}


def key(caller: Caller) -> dict[str, str]:
    made = json_of(caller.post("/v1/keys", json={"name": "second", "scopes": ["jobs:read"]}), 201)
    return {"key": made["id"]}


def grave(caller: Caller) -> dict[str, str]:
    assert caller.call("DELETE", f"/v1/studies/{study(caller)['study']}").status_code == 204
    return {}


def world(caller: Caller) -> dict[str, str]:
    """One of everything, by the names that paths and bodies give the ids."""
    ids: dict[str, str] = {}
    for make in (batch, complete_upload, endpoint, key, study, artifact, grave):
        ids |= make(caller)
    shown = json_of(caller.get(f"/v1/jobs/{ids['job']}"))
    study_view = json_of(caller.get(f"/v1/studies/{shown['study_id']}"))
    ids |= {"study": study_view["id"], "image": study_view["images"][0]["id"]}
    return {f"{name}_id": value for name, value in ids.items()} | {"sha256": "0" * 64}
