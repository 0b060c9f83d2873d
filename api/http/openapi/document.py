"""What /openapi.json needs beyond the routes' types: the error answers, and forms that carry files."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from flask import Flask
from flask_openapi3.models import OPENAPI3_REF_TEMPLATE
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from api.http.principal import scope_of
from api.http.schemas import Problem


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


#: Answers that any route under /v1 may give.
ERRORS: dict[str | int | HTTPStatus, type[BaseModel] | dict[Any, Any] | None] = {
    "400": _problem("Malformed request"),
    "401": _problem("No API key, or one that is not in force"),
    "403": _problem("The key lacks the scope"),
    "404": _problem("Not found"),
    "409": _problem("Conflict with the current state"),
    "413": _problem("Payload too large"),
    "415": _problem("Unsupported media type"),
    "422": _problem("Invalid request"),
    "429": _problem("Too many requests or bytes: wait for `Retry-After` seconds"),
    "500": _problem("Internal error"),
    "503": _problem("Temporarily unavailable"),
}

FILES = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "format": "binary"},
    "description": "PNG, JPEG, TIFF or DICOM",
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string"},
    "description": "`wait=N`: answer when it has ended, at the latest after N seconds (RFC 7240)",
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The `ETag` of an earlier answer: 304 when nothing has changed",
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same request sent again with the same key gets the same resource",
}


#: Schemas of bodies by their names, which clients that are generated call them by; filled where routes are described.
BODIES: dict[str, dict[str, Any]] = {}


def reference(name: str) -> dict[str, Any]:
    """Where a schema with a name is."""
    return {"$ref": OPENAPI3_REF_TEMPLATE.format(model=name)}


def body_of(model: type[BaseModel], mode: JsonSchemaMode = "validation") -> dict[str, Any]:
    """Return a model that no route's type names, as a schema with a name."""
    schema = model.model_json_schema(ref_template=OPENAPI3_REF_TEMPLATE, mode=mode)
    schema.pop("$defs", None)  # those that it refers to are there already
    BODIES[model.__name__] = schema
    return reference(model.__name__)


def form_body(
    form: type[BaseModel], json_body: type[BaseModel] | None = None, *, waits: bool = False
) -> dict[str, Any]:
    """Return the request body of a route that takes `files` beside a form, and maybe JSON instead."""
    schema = form.model_json_schema(ref_template=OPENAPI3_REF_TEMPLATE)
    schema.pop("$defs", None)
    fields = {name: _without_null(field) for name, field in schema["properties"].items()}
    schema["properties"] = {"files": FILES} | fields
    schema["required"] = ["files", *schema.get("required", [])]
    BODIES[form.__name__] = schema
    content: dict[str, Any] = {"multipart/form-data": {"schema": reference(form.__name__)}}
    if json_body is not None:
        content["application/json"] = {"schema": body_of(json_body)}
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [IDEMPOTENCY_KEY, PREFER] if waits else [IDEMPOTENCY_KEY],
    }


#: Where the id that an answer holds leads on: route and status of the answer, where the id is, and the routes.
LINKS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "/v1/jobs",
        "202",
        "id",
        (
            ("get", "/v1/jobs/{job_id}"),
            ("get", "/v1/jobs/{job_id}/artifacts"),
            ("post", "/v1/jobs/{job_id}/cancel"),
        ),
    ),
    ("/v1/jobs", "202", "study_id", (("get", "/v1/studies/{study_id}"),)),
    (
        "/v1/studies",
        "201",
        "id",
        (
            ("get", "/v1/studies/{study_id}"),
            ("post", "/v1/studies/{study_id}/images"),
            ("post", "/v1/studies/{study_id}/complete"),
        ),
    ),
    (
        "/v1/batches",
        "202",
        "id",
        (
            ("get", "/v1/batches/{batch_id}"),
            ("get", "/v1/batches/{batch_id}/results"),
            ("get", "/v1/batches/{batch_id}/errors"),
            ("get", "/v1/batches/{batch_id}/events"),
            ("post", "/v1/batches/{batch_id}/cancel"),
        ),
    ),
    (
        "/v1/uploads",
        "201",
        "data/0/id",
        (
            ("get", "/v1/uploads/{upload_id}"),
            ("post", "/v1/uploads/{upload_id}/complete"),
            ("delete", "/v1/uploads/{upload_id}"),
        ),
    ),
    (
        "/v1/webhook-endpoints/{endpoint_id}/test",
        "202",
        "id",
        (("post", "/v1/deliveries/{delivery_id}/redeliver"),),
    ),
    (
        "/v1/webhook-endpoints",
        "201",
        "id",
        (
            ("get", "/v1/webhook-endpoints/{endpoint_id}"),
            ("patch", "/v1/webhook-endpoints/{endpoint_id}"),
            ("post", "/v1/webhook-endpoints/{endpoint_id}/rotate-secret"),
            ("post", "/v1/webhook-endpoints/{endpoint_id}/test"),
            ("get", "/v1/webhook-endpoints/{endpoint_id}/deliveries"),
            ("delete", "/v1/webhook-endpoints/{endpoint_id}"),
        ),
    ),
    ("/v1/keys", "201", "id", (("get", "/v1/keys/{key_id}"), ("post", "/v1/keys/{key_id}/revoke"))),
)


def _link(document: dict[str, Any]) -> None:
    for path, status, field, targets in LINKS:
        links = document["paths"][path]["post"]["responses"][status].setdefault("links", {})
        for method, target in targets:
            operation = document["paths"][target][method]["operationId"]
            name = target.partition("{")[2].partition("}")[0]
            parameters = {name: f"$response.body#/{field}"}
            links[f"{operation}_of_{field.rpartition('/')[2]}"] = {"operationId": operation, "parameters": parameters}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Remove null from a form's field: it is there or it is not."""
    if "anyOf" not in field:
        return field
    (kind,) = (one for one in field["anyOf"] if one != {"type": "null"})
    rest: dict[str, Any] = {name: value for name, value in field.items() if name not in {"anyOf", "default"}}
    return {**rest, **kind}


#: Names of operations where the function's own does not say what it is about.
OPERATIONS = {
    "batch_events": "stream_batch_events",
    "batch_results": "get_batch_results",
    "batch_errors": "get_batch_errors",
    "put_content": "put_upload_content",
    "add_images": "add_study_images",
    "get_preview": "get_image_preview",
    "list_audit": "list_audit_entries",
    "create_endpoint": "create_webhook_endpoint",
    "list_endpoints": "list_webhook_endpoints",
    "get_endpoint": "get_webhook_endpoint",
    "update_endpoint": "update_webhook_endpoint",
    "delete_endpoint": "delete_webhook_endpoint",
    "test_endpoint": "test_webhook_endpoint",
    "rotate_secret": "rotate_webhook_secret",
    "replay_missed": "replay_missed_events",
    "redeliver": "redeliver_event",
    "healthz": "get_health",
    "readyz": "get_readiness",
    "metrics": "get_metrics",
}


def _describe_views(document: dict[str, Any], app: Flask) -> None:
    """Name each operation after its function alone, and say which scope it requires."""
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        name = rule.endpoint.rpartition(".")[2]
        for method in rule.methods or ():
            operation = document["paths"].get(path, {}).get(method.lower())
            if operation is not None:
                operation["operationId"] = OPERATIONS.get(name, name)
                scope = scope_of(app.view_functions[rule.endpoint])
                operation["security"] = [] if scope is None else [{"apiKey": [scope]}]


def complete_document(document: dict[str, Any], app: Flask, server: str, *others: type[BaseModel]) -> dict[str, Any]:
    """Complete the document with what the routes' types cannot say: names, problems, who needs a key, a poll's headers.

    `server` is the address of the API, `/` where the document comes from; `others` are models that only answers refer
    to that are no JSON documents.
    """
    document["servers"] = [{"url": server}]
    _describe_views(document, app)
    schemas = document["components"]["schemas"]
    schemas |= BODIES
    models: tuple[type[BaseModel], ...] = (Problem, *others)
    for model in models:
        schema = model.model_json_schema(ref_template=OPENAPI3_REF_TEMPLATE)
        schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
    # What flask-openapi3 would answer to an invalid request; ours is a problem.
    del schemas["ValidationErrorModel"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if not path.startswith("/v1/") and "application/json" in operation["responses"]["422"]["content"]:
                # flask-openapi3's own again, where no errors of ours are described.
                del operation["responses"]["422"]
    for path in ("/v1/jobs/{job_id}", "/v1/batches/{batch_id}"):
        document["paths"][path]["get"]["parameters"] += [PREFER, IF_NONE_MATCH]
    document["paths"]["/v1/jobs/{job_id}/artifacts/{artifact_id}"]["get"]["parameters"].append(IF_NONE_MATCH)
    document["paths"]["/v1/studies/{study_id}/images"]["post"]["parameters"].append(IDEMPOTENCY_KEY)
    _link(document)
    return document
