"""What /openapi.json says of a batch's bodies and outputs, which are no JSON documents."""

from __future__ import annotations

from typing import Any

from flask_openapi3.models import OPENAPI3_REF_TEMPLATE
from pydantic import BaseModel

from api.batches.schemas import BatchForm, BatchLine, BatchQuery, ErrorLine, ResultLine
from api.http.openapi.document import body_of, form_body


def _batch_body() -> dict[str, Any]:
    """Return the body in its three forms; the options stand in the form, or in the query."""
    described = form_body(BatchForm)
    lines = '{"custom_id": "a-17", "upload_id": "upl_0193f2"}\n{"custom_id": "a-18", "study_id": "stu_0193f3"}\n'
    described["requestBody"]["content"] |= {
        "application/zip": {
            "schema": {"type": "string", "format": "binary"},
            "example": "the bytes of a ZIP: each file in it is an item",
        },
        "application/x-ndjson": {"schema": body_of(BatchLine), "example": lines},
    }
    query = BatchQuery.model_json_schema(ref_template=OPENAPI3_REF_TEMPLATE)
    described["parameters"] += [
        {"name": name, "in": "query", "schema": schema, "description": _said_of(name, schema)}
        for name, schema in query["properties"].items()
    ]
    return described


def _said_of(name: str, schema: dict[str, Any]) -> str:
    required = " Required with a ZIP or lines." if name == "classifier" else ""
    return f"{schema.get('description', 'As in the form.')}{required}"


def _lines(model: type[BaseModel], description: str) -> dict[str, Any]:
    content = {
        "application/x-ndjson": {"schema": body_of(model, "serialization")},
        "text/csv": {"schema": {"type": "string"}},
    }
    return {"description": description, "content": content}


BATCH_BODY = _batch_body()
RESULT_LINES = _lines(ResultLine, "A line for each item that became a job")
ERROR_LINES = _lines(ErrorLine, "A line for each item without an answer")
EVENT_STREAM: dict[str, Any] = {
    "description": "`progress` and `end`, each with the batch as data",
    # Each event is the item that the schema is of.
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "required": ["event", "data"],
                "properties": {
                    "event": {"type": "string", "enum": ["progress", "end"]},
                    "data": {"type": "string", "description": "The batch, as JSON"},
                },
            }
        }
    },
}
