"""What can go wrong, as a caller of the client sees it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httpx

TOLD_REASONS = 10


class ClientError(Exception):
    """Root of the client's errors."""


class ApiError(ClientError):
    """The server answered with an error (RFC 9457).

    `type` is the last part of the problem's URI (`not-found`); the server's /problems page explains each.
    `errors` lists the fields at fault, when the server names them, and `reasons` says the same in words; the message
    holds the first of them. Quote `request_id` to the operator.
    `retry_after` are the seconds that the server asks to wait before the same is tried again, 0 if it does not.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002 - RFC 9457 calls it so
        title: str,
        detail: str,
        request_id: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(status, type, title, detail, request_id, errors, retry_after)  # so that it can be pickled
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.errors = errors or []
        self.retry_after = retry_after

    def __str__(self) -> str:
        told = self.reasons[:TOLD_REASONS]
        more = [f"and {len(self.reasons) - len(told):,} more"] if len(self.reasons) > len(told) else []
        return self._line(*told, *more)

    @property
    def headline(self) -> str:
        """What went wrong, without the fields at fault."""
        return self._line()

    @property
    def reasons(self) -> list[str]:
        """For each field at fault its name, and why."""
        return [_reason(error) for error in self.errors]

    def _line(self, *reasons: str) -> str:
        # Where one field is at fault, the detail often says no more than its reason does.
        told = {self.title, *map(_message, self.errors)}
        what = "; ".join([*(() if self.detail in told else (self.detail,)), *reasons])
        quoted = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.title}" + (f": {what}" if what else "") + quoted


class Unreachable(ClientError):
    """No answer from the server, after every attempt. The same Idempotency-Key may be sent again later."""


def api_error(response: httpx.Response, retry_after: float = 0.0) -> ApiError:
    """Return the error that a response carries.

    Proxies answer without problem+json, which is shown as far as it goes.
    """
    body = _problem(response)
    return ApiError(
        status=response.status_code,
        type=str(body.get("type", "about:blank")).rpartition("#")[2],
        title=str(body.get("title") or _phrase(response.status_code)),
        detail=str(body.get("detail") or "the server gave no details"),
        request_id=response.headers.get("X-Request-Id") or body.get("instance"),
        errors=_errors(body.get("errors")),
        retry_after=retry_after,
    )


def _problem(response: httpx.Response) -> dict[str, Any]:
    if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return {}
    try:
        body = response.json()
    except ValueError:  # cut off by a proxy: the status line still tells the story
        return {}
    return body if isinstance(body, dict) else {}


def _errors(found: Any) -> list[dict[str, Any]]:
    return [error for error in found if isinstance(error, dict)] if isinstance(found, list) else []


def _message(error: dict[str, Any]) -> str:
    return str(error.get("message") or error.get("detail") or "")


def _reason(error: dict[str, Any]) -> str:
    field = str(error.get("field") or error.get("pointer") or "")
    return ": ".join(part for part in (field, _message(error)) if part)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unexpected answer"
