"""What is wrong with the fields of a request, in words: pydantic's own name its parts, and classes of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from api.http.fields import PATTERNS

#: By pydantic's type of error, where its own message is not for clients.
MESSAGES = {
    "missing": "missing",
    "extra_forbidden": "not a field that is known here",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be text",
    "json_type": "must be JSON, as text",
    "json_invalid": "not well-formed JSON",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "recursion_loop": "nested too deeply",
}


def field_errors(error: ValidationError) -> list[dict[str, Any]]:
    """Each wrong field once, and why; never what it held."""
    items = error.errors(include_input=False, include_url=False)
    return list({(one["field"], one["message"]): one for one in map(_field_error, items)}.values())


def _field_error(item: ErrorDetails) -> dict[str, Any]:
    # Cut: an unknown field's name is the client's own, and may be as long as a body.
    field = ".".join(str(part) for part in item["loc"])[:100]
    return {"field": field, "pointer": pointer(item["loc"]), "message": _message(item)}


def _message(item: ErrorDetails) -> str:
    context = item.get("ctx", {})
    if item["type"] in {"value_error", "assertion_error"}:
        return str(context["error"])
    if item["type"].startswith(("datetime_", "timezone_")):
        return "must be a time: RFC 3339, with its zone"
    if item["type"] == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    return MESSAGES.get(item["type"]) or item["msg"].replace("Input should", "must").replace("should", "must")


def pointer(location: Iterable[object]) -> str:
    """Return a place in a JSON document, as a URI fragment (RFC 6901, section 6)."""
    return "#" + "".join(f"/{part}" for part in _escaped(location))


def _escaped(location: Iterable[object]) -> Iterator[str]:
    for part in location:
        yield quote(str(part).replace("~", "~0").replace("/", "~1")[:100])
