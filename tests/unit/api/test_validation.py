"""What clients are told of wrong requests: every model and every field, in words that are none of our libraries'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from api.batches import schemas as batch_schemas
from api.http import schemas
from api.http.problems import invalid, problem_types
from api.http.validation import pointer
from api.jobs import schemas as job_schemas
from api.keys import schemas as key_schemas
from api.studies import schemas as study_schemas
from api.uploads import schemas as upload_schemas
from api.webhooks import schemas as webhook_schemas
from shared.db.tables import EventType
from shared.errors import ThoraqError, meaning_of

MODULES = (batch_schemas, job_schemas, key_schemas, schemas, study_schemas, upload_schemas, webhook_schemas)
REQUESTS = sorted(
    {
        model
        for module in MODULES
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, schemas.Strict) and model is not schemas.Strict
    },
    key=lambda model: model.__name__,
)
#: Values that no field, or hardly any, takes.
JUNK: tuple[Any, ...] = (
    None, True, 3.5, -1, 10**30, float("nan"), "", "x" * 20_000, "\0", "\ufffd", "{", "[]", "2026", [], [None], [{}],
    ["x"], {}, {"a": 1}, {"a": "\0"}, object(),
)  # fmt: skip
INTERNALS = re.compile(
    r"Value error|Assertion|pydantic|str-enum|literal\[|function-|constrained|nullable|union|BaseModel|instance of|"
    r"dictionary|Input|string_|_type|\^\[|\\x|Json|<|Enum|Schema|Strict|NoneType|datetime|None"
)


def wrongs(model: type[BaseModel]) -> Iterator[tuple[Any, ValidationError]]:
    """What is said of each junk value as the whole, and in each field."""
    contents: list[Any] = [*JUNK, {"unknown" * 100: 1}]
    contents += [{name: junk} for name in model.model_fields for junk in JUNK]
    for content in contents:
        try:
            model.model_validate(content)
        except ValidationError as error:
            yield content, error


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.__name__)
def test_errors_speak_of_the_request_s_own_fields(model: type[BaseModel]) -> None:
    # Also those of objects within, and the keys of the junk.
    known = {"", "a", *(name for one in REQUESTS for name in one.model_fields)}
    count = 0
    for content, error in wrongs(model):
        errors = invalid(error).extensions["errors"]
        assert isinstance(errors, list)
        for one in errors:
            count += 1
            assert not INTERNALS.search(one["message"]), (content, one)
            assert one["message"][0] not in "'\"", one
            parts = one["field"].split(".")
            assert all(part in known or part.isdigit() or part.startswith("unknown") for part in parts), one
            assert one["pointer"].startswith("#")
            assert len(one["field"]) <= 100
        assert len({(one["field"], one["message"]) for one in errors}) == len(errors)
    assert count


def test_an_event_that_is_none_is_one_error_of_its_own_field() -> None:
    with pytest.raises(ValidationError) as caught:
        webhook_schemas.EndpointRequest.model_validate({"url": "https://h/", "events": ["job.done"]})
    errors: Any = invalid(caught.value).extensions["errors"]
    (one,) = errors
    assert (one["field"], one["pointer"]) == ("events.0", "#/events/0")
    assert one["message"].startswith("must be '*', 'job.succeeded'")


def test_an_endpoint_can_subscribe_to_every_event() -> None:
    assert set(get_args(webhook_schemas.Subscription)) == {"*", *EventType}


def test_a_pointer_is_escaped() -> None:
    assert pointer(["a/b~c", 0, "ü"]) == "#/a~1b~0c/0/%C3%BC"


@pytest.mark.parametrize("kind", list(problem_types()), ids=lambda kind: kind.type)
def test_no_problem_says_its_title_twice(kind: type[ThoraqError]) -> None:
    error = kind()
    assert error.detail != error.title
    assert error.detail == meaning_of(kind) == str(error)
    assert not error.detail.casefold().startswith(error.title.casefold())
    for text in (error.title, error.detail, error.remedy):
        assert not re.search(r"Root of the tree|\braised\b|\bclass\b", text), text
        assert text == text.strip()
        assert text
