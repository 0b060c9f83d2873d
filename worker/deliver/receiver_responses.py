"""What a receiver of webhooks answered, and why there was no answer, as the record of a delivery shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpcore

#: Of the answer's body; what is longer has nothing to say to whoever looks for a fault.
HEAD_CHARACTERS = 1_000
TEXT = re.compile(r"text/.*|application/(.*\+)?(json|xml)|application/x-www-form-urlencoded", re.IGNORECASE)
CHARSET = re.compile(r"charset=\"?([\w.:-]+)", re.IGNORECASE)
PHRASES = {status.value: status.phrase for status in HTTPStatus}
#: The type of a failure says what happened; its message may hold the URL, and with it a receiver's secret path.
REASONS: dict[type[Exception], str] = {
    httpcore.ConnectTimeout: "no connection in time",
    httpcore.ConnectError: "no connection: refused, unreachable, not resolved, or its certificate is not trusted",
    httpcore.ReadTimeout: "no answer in time",
    httpcore.WriteTimeout: "the receiver did not take the request in time",
    httpcore.PoolTimeout: "too many deliveries were under way",
    httpcore.ReadError: "the receiver closed the connection before it answered",
    httpcore.WriteError: "the receiver closed the connection before it had the request",
    httpcore.RemoteProtocolError: "the answer is no HTTP, or ended too early",
    httpcore.LocalProtocolError: "the URL cannot be sent as a request",
    httpcore.UnsupportedProtocol: "the URL is neither https nor http",
}


@dataclass(frozen=True)
class ReceiverAnswer:
    """A receiver's answer: its status, the beginning of its body if that is text, and its Retry-After in seconds."""

    status: int
    head: str | None = None
    retry_after: float | None = None


def reason_of(failure: Exception) -> str:
    """Why there was no answer, in words."""
    return next((REASONS[kind] for kind in type(failure).__mro__ if kind in REASONS), "the request failed")


def refusal_of(status: int) -> str | None:
    """Why an answer is no delivery, in words; None when it is one."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"the receiver answered {status}, and redirects are not followed: change the endpoint's URL"
    return f"the receiver answered {status} {PHRASES.get(status, '')}".rstrip()


def read_answer(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> ReceiverAnswer:
    """Read the answer as it is kept, of the beginning of its body."""
    found = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return ReceiverAnswer(status, _head(found, body), retry_after(found.get("retry-after"), datetime.now(UTC)))


def _head(headers: dict[str, str], body: bytes) -> str | None:
    kind = headers.get("content-type", "text/plain")
    compressed = headers.get("content-encoding", "identity").lower() != "identity"
    if not body or compressed or not TEXT.fullmatch(kind.partition(";")[0].strip()):
        return None
    charset = CHARSET.search(kind)
    try:
        text = body.decode(charset[1] if charset else "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    # PostgreSQL's text holds no NUL, and a terminal should not be told what to do.
    shown = (c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text.replace("\r\n", "\n"))
    return "".join(shown)[:HEAD_CHARACTERS]


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After, which is a number or a date (RFC 9110, 10.2.3); None for what is neither."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]+", value.strip()):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp(), 0.0)
