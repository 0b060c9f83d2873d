"""What schemathesis cannot know of Thoraq: how a ZIP and NDJSON are written and read, and pictures that can be read."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import schemathesis
from schemathesis import Case, DeserializationContext, GenerationMode, HookContext, Response, SerializationContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.transport.serialization import Binary

from tests.support.api import PNG

#: The key that the run itself uses: it must not end it.
OWN_KEY = os.environ["OPENAPI_RUN_KEY_ID"]
PICTURE = Binary(PNG)


@schemathesis.serializer("application/zip")
def to_zip(_context: SerializationContext, value: Any) -> bytes:
    """An archive of a picture and of whatever was made up."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("picture.png", PNG)
        archive.writestr("made/up", str(value))
    return body.getvalue()


@schemathesis.serializer("application/x-ndjson")
def to_lines(_context: SerializationContext, value: Any) -> bytes:
    """One line."""
    return json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def from_lines(_context: DeserializationContext, response: Response) -> Any:
    """The first line: all have one shape."""
    return json.loads((response.content or b"{}").splitlines()[0])


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Whether it is one: a bad line fails alone while its batch is accepted; lines that are none violate no schema."""
    if isinstance(failure, AcceptedNegativeData):
        # A form that `map_case` has made good counts as changed, and so as bad.
        return case.media_type != "application/x-ndjson" and not _has_picture(case)
    return bool(response.content) or "application/x-ndjson" not in response.headers.get("content-type", [""])[0]


def _has_picture(case: Case[Any]) -> bool:
    return isinstance(case.body, Mapping) and case.body.get("files") == [PICTURE]


@schemathesis.hook
def filter_case(_context: HookContext, case: Case[Any]) -> bool:
    """Whether the case may be sent."""
    return (case.path_parameters or {}).get("key_id") != OWN_KEY


@schemathesis.hook
def map_case(_context: HookContext, case: Case[Any]) -> Case[Any]:
    """Some of the good bodies name what there is: a picture, an address where somebody might listen."""
    good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if good and isinstance(case.body, Mapping) and len(str(case.body)) % 2:
        if case.media_type == "multipart/form-data" and "files" in case.body:
            body: Any = {**case.body, "files": [PICTURE], "modality": "xray"}
            case.body = body
        elif "url" in case.body:
            case.body = {**case.body, "url": "http://127.0.0.1:9/hook"}
    return case
