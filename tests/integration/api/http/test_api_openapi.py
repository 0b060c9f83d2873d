"""/openapi.json: a valid document that speaks of every route."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.api import MakeApp, json_of


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = json_of(app.test_client().get("/openapi.json"))
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_it_stays_the_same(app: Flask, document: dict[str, Any]) -> None:
    assert json_of(app.test_client().get("/openapi.json")) == document


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    targets = set(references(document))
    assert targets
    for target in targets:
        node: Any = document
        for key in target.removeprefix("#/").split("/"):
            assert key in node, target
            node = node[key]


def test_every_schema_is_used(document: dict[str, Any]) -> None:
    used = {target.rpartition("/")[2] for target in references(document)}
    assert set(document["components"]["schemas"]) <= used


def test_every_route_is_described(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (method.lower(), re.sub(r"<string:(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(method, path) for method, path, _ in operations(document)}
    assert routes <= described
    without_key = {
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("put", "/uploads/{upload_id}/content"),
    }
    assert described - routes == without_key


def test_every_route_with_a_key_describes_its_errors(document: dict[str, Any]) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for method, path, operation in operations(document):
        if path.startswith("/v1/"):
            for status in ("400", "401", "403", "404", "409", "413", "415", "422", "500", "503"):
                assert operation["responses"][status]["content"] == problem, (method, path, status)
            assert any(status.startswith("2") for status in operation["responses"]), (method, path)
            assert operation["security"][0]["apiKey"], (method, path)
            assert operation["summary"]
        else:
            assert operation["security"] == [], (method, path)


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        described = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path)), (method, path)


def test_every_operation_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert {"submit_job", "get_job", "submit_batch", "create_webhook_endpoint", "get_health"} <= set(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)
    assert not any("_v1_" in name or name.endswith(("_post", "_get")) for name in names)


def test_every_body_has_a_name(document: dict[str, Any]) -> None:
    """Generated clients call their types by it."""
    for method, path, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = content["schema"]
            assert "$ref" in schema or schema.get("format") == "binary", (method, path, kind)
    assert {"JobForm", "JobRequest", "BatchForm", "BatchLine", "ResultLine"} <= set(document["components"]["schemas"])


def test_a_client_learns_where_the_api_is(make_app: MakeApp, document: dict[str, Any]) -> None:
    assert document["servers"] == [{"url": "/"}]
    public = make_app(public_url="https://thoraq.hospital.example").test_client().get("/openapi.json")
    assert json_of(public)["servers"] == [{"url": "https://thoraq.hospital.example"}]


def body(document: dict[str, Any], path: str, kind: str) -> dict[str, Any]:
    """The schema of a request's body."""
    reference = document["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]["$ref"]
    found: dict[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def headers_of(document: dict[str, Any], method: str, path: str) -> set[str]:
    parameters = document["paths"][path][method].get("parameters", [])
    return {parameter["name"] for parameter in parameters if parameter["in"] == "header"}


def test_headers_are_described(document: dict[str, Any]) -> None:
    assert headers_of(document, "post", "/v1/jobs") == {"Idempotency-Key", "Prefer"}
    assert headers_of(document, "get", "/v1/jobs/{job_id}") == {"Prefer", "If-None-Match"}
    assert headers_of(document, "get", "/v1/jobs/{job_id}/artifacts/{artifact_id}") == {"If-None-Match"}
    for path in (
        "/v1/studies",
        "/v1/studies/{study_id}/images",
        "/v1/uploads",
        "/v1/batches",
        "/v1/webhook-endpoints",
        "/v1/keys",
    ):
        assert headers_of(document, "post", path) == {"Idempotency-Key"}


def test_artifacts_are_described_as_they_are_sent(document: dict[str, Any]) -> None:
    one = document["components"]["schemas"]["ArtifactView"]
    assert "class" in one["properties"]
    assert "class_name" not in one["properties"]
    answers = document["paths"]["/v1/jobs/{job_id}/artifacts/{artifact_id}"]["get"]["responses"]
    assert set(answers["200"]["content"]) == {"image/png"}
    assert "304" in answers


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/studies/{study_id}/images", "/v1/batches"])
def test_uploads_describe_their_files(path: str, document: dict[str, Any]) -> None:
    schema = body(document, path, "multipart/form-data")
    assert schema["properties"]["files"]["items"] == {"type": "string", "format": "binary"}
    assert "files" in schema["required"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/studies/{study_id}/images"])
def test_direct_uploads_are_an_alternative_to_files(path: str, document: dict[str, Any]) -> None:
    schema = body(document, path, "application/json")
    assert "upload_ids" in schema["properties"]


def test_an_address_describes_what_it_takes(document: dict[str, Any]) -> None:
    operation = document["paths"]["/uploads/{upload_id}/content"]["put"]
    assert set(operation["requestBody"]["content"]) == {"application/octet-stream"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "upload_id",
        "tenant",
        "expires",
        "signature",
    }
    assert set(operation["responses"]["422"]["content"]) == {"application/problem+json"}
