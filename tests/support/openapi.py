"""Requests made from what /openapi.json says, one for each operation: a route that is added is tried without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.api import PNG

METHODS = ("get", "put", "post", "patch", "delete")
#: Values of fields whose schema alone does not say what is valid.
KNOWN = {"url": "http://127.0.0.1/hook", "sha256": "0" * 64, "modality": "xray", "since": "2026-01-01T00:00:00Z"}


@dataclass(frozen=True)
class Operation:
    """One method of one path under /v1."""

    document: Mapping[str, Any]
    method: str
    path: str

    @property
    def description(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["paths"][self.path][self.method]
        return found

    @property
    def scope(self) -> str:
        """The scope that its description asks for."""
        return str(self.description["security"][0]["apiKey"][0])

    @property
    def ids(self) -> list[str]:
        """The names of the ids in its path."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def query(self) -> dict[str, Any]:
        """The parameters of its query."""
        parameters = self.description.get("parameters", [])
        return {one["name"]: one["schema"] for one in parameters if one["in"] == "query"}

    def call(
        self, client: FlaskClient, ids: Mapping[str, str], headers: Mapping[str, str], **query: str
    ) -> TestResponse:
        """A valid request, as far as the description says what is valid."""
        path = self.path.format(**{name: ids[name] for name in self.ids})
        options: dict[str, Any] = {"method": self.method.upper(), "headers": dict(headers), "query_string": query}
        return client.open(path, **options, **self.body(ids))

    def body(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """Options of the request that carry its body: JSON if it takes any, else a form with a file."""
        content = self.description.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            return {"json": self._object(content["application/json"]["schema"], ids)}
        if "multipart/form-data" in content:
            fields = self._object(content["multipart/form-data"]["schema"], ids, but="files")
            return {"data": fields | {"files": (BytesIO(PNG), "x.png")}, "content_type": "multipart/form-data"}
        return {}

    def _object(self, schema: Mapping[str, Any], ids: Mapping[str, str], but: str = "") -> dict[str, Any]:
        schema = self._resolved(schema)
        wanted = {*schema.get("required", ()), *(schema["properties"].keys() & {"modality"})} - {but}
        return {name: self._value(name, schema["properties"][name], ids) for name in sorted(wanted)}

    def _value(self, name: str, schema: Mapping[str, Any], ids: Mapping[str, str]) -> Any:
        if name in ids or name in KNOWN:
            return ids.get(name) or KNOWN[name]
        schema = self._resolved(schema)
        if "enum" in schema or "const" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        if schema["type"] == "array":
            return [self._value(name.removesuffix("s"), schema["items"], ids)] * schema.get("minItems", 0)
        if schema["type"] == "object":
            return self._object(schema, ids) if "properties" in schema else {}
        return {"string": "x", "integer": schema.get("minimum", 1), "number": 1, "boolean": False}[schema["type"]]

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema itself: what a reference leads to, the first of several."""
        if "$ref" in schema:
            return self._resolved(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return self._resolved(schema["anyOf"][0])
        return schema


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Every operation under /v1."""
    for path, item in document["paths"].items():
        if path.startswith("/v1/"):
            yield from (Operation(document, method, path) for method in METHODS if method in item)
