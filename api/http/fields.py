"""Types of the fields that clients fill in: what they refuse, PostgreSQL's text and JSONB could not keep."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    Json,
    Strict,
    StringConstraints,
    WithJsonSchema,
)

# U+FFFD is what bytes that are no UTF-8 were replaced with: keeping it would keep something that nobody sent.
PLAIN = r"^[^\x00-\x1f\x7f" + "\ufffd]*$"
ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PLAIN)]
Description = Annotated[str, StringConstraints(max_length=200, pattern=PLAIN)]
ID, SHA256, VISIBLE = r"^[a-z]+_[0-9a-f]+$", r"^[0-9a-f]{64}$", r"^[!-~]+$"
Id = Annotated[str, StringConstraints(max_length=64, pattern=ID)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256)]
#: What a text that does not match is told to be.
PATTERNS = {
    PLAIN: "must be UTF-8 text without control characters",
    ID: "must be an id, as it was answered",
    SHA256: "must be a SHA-256: 64 hexadecimal digits in lower case",
    VISIBLE: "must be an URL of visible ASCII characters",
}
ExpiresIn = Annotated[
    int, Field(gt=0, le=31_536_000, description="Seconds after which it is not run any more; it fails as `expired`")
]
Force = Annotated[bool, Field(description="Run it even if the same bytes were answered before")]


def _number(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError("a number, not text and not a boolean")  # noqa: TRY004 - pydantic reports ValueError
    return value


#: In JSON 0, 1 and "yes" are no booleans, and "7" and true no numbers. (In forms and queries all is text.)
JsonBool = Annotated[bool, Strict()]
JsonNumber = BeforeValidator(_number)

METADATA_CHARACTERS = 16_384
NUL_IN_JSON = re.compile(r"(?<!\\)(\\\\)*\\u0000")


def _storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the value; ValueError for what JSON text may say and PostgreSQL's JSONB cannot keep."""
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("text with half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if NUL_IN_JSON.search(text) or "\ufffd" in text:
        raise ValueError("text with a NUL character, or with bytes that are not UTF-8")
    if len(text) > METADATA_CHARACTERS:
        raise ValueError(f"longer than {METADATA_CHARACTERS} characters")
    return metadata


Metadata = Annotated[dict[str, Any], AfterValidator(_storable)]


def _metadata(value: object) -> object:
    return "{}" if value in (None, "") else value


#: In a form, metadata is a JSON object as text. Described as text alone: what has a `contentMediaType`, which Json says
#: of it, Swagger UI takes for a file to choose.
FormMetadata = Annotated[
    Json[Metadata],
    BeforeValidator(_metadata),
    WithJsonSchema({"type": "string", "description": "A JSON object, as text.", "examples": ['{"ward": "7"}']}),
]


#: date-time of RFC 3339, section 5.6: pydantic alone takes seconds since 1970, as a number or as text, as well.
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _date_time(value: object) -> object:
    if not isinstance(value, str) or DATE_TIME.fullmatch(value) is None:
        raise ValueError("a time is text as in RFC 3339, with seconds and zone: 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_date_time)]


def _url(value: str) -> str:
    urlsplit(value)  # ValueError for what is no URL, brackets without an end for example
    return value


Url = Annotated[str, StringConstraints(max_length=2000, pattern=VISIBLE), AfterValidator(_url)]
