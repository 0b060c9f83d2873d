"""Examples of requests in /openapi.json: what the documentation page fills in when somebody tries one."""

from __future__ import annotations

from typing import Any

#: By path and method, then by the body's type: examples as OpenAPI 3.1 has them (4.8.14, Media Type Object).
EXAMPLES: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("/v1/jobs", "post"): {
        "multipart/form-data": {
            "xray": {
                "summary": "One X-ray for the binary classifier",
                "value": {"files": ["chest.png"], "classifier": "binary", "modality": "xray", "metadata": "{}"},
            },
        },
        "application/json": {
            "study": {
                "summary": "A study that is stored: put in its id",
                "value": {"study_id": "stu_01a229430b4272e7acaf77c44eaf9934", "classifier": "binary"},
            },
            "uploads": {
                "summary": "A new study of direct uploads: put in their ids",
                "value": {
                    "upload_ids": ["upl_01a229430b4272e7acaf77c44eaf9934"],
                    "classifier": "ensemble",
                    "modality": "xray",
                    "external_id": "case-1",
                },
            },
        },
    },
}


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document with the examples in it."""
    for (path, method), bodies in EXAMPLES.items():
        content = document["paths"][path][method]["requestBody"]["content"]
        for media_type, examples in bodies.items():
            content[media_type]["examples"] = examples
    return document
