"""One request to the server: sent, repeated while that can help, and its errors made ours."""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from client.errors import Unreachable, api_error

TRY_AGAIN = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """How often and how patiently a request is repeated.

    Delays double from `base_seconds` up to `cap_seconds`, times a random factor in [0.5, 1), and are never shorter
    than the server's Retry-After. A Retry-After beyond `patience_seconds` is not waited for: its error is raised.
    """

    attempts: int = 5
    base_seconds: float = 0.5
    cap_seconds: float = 30
    patience_seconds: float = 120
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def delay(self, attempt: int, asked: float = 0.0) -> float | None:
        """Seconds before the next attempt, after `attempt` (from 1) failed; None to give up.

        `asked` are the seconds of the server's Retry-After.
        """
        if attempt >= self.attempts:
            return None
        backoff = min(self.cap_seconds, self.base_seconds * 2 ** (attempt - 1)) * (0.5 + self.jitter() / 2)
        return max(backoff, asked) if asked <= self.patience_seconds else None


class Transport:
    """An httpx client that repeats requests which a server may see twice without harm.

    That is every request of this API: what creates something carries an Idempotency-Key, the rest is idempotent.
    """

    def __init__(self, url: str, key: str, *, timeout: float, retry: Retry) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("the server's URL must begin with http:// or https://")
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("the API key is empty or not plain text")
        self.timeout = timeout
        self.retry = retry
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            timeout=timeout,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "thoraq-client", "Accept": "application/json"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, method: str, path: str, *, wait: float | None = None, **content: Any) -> httpx.Response:
        """Return the answer (2xx or 304). `wait` asks the server to hold its answer that many seconds (RFC 7240).

        ApiError for an answer that says no, Unreachable without an answer. `content` is as httpx.Client.build_request
        takes it.
        """
        if wait is not None:
            content["headers"] = (content.get("headers") or {}) | {"Prefer": f"wait={wait:.0f}"}
            # The answer is late on purpose, so reading may take that much longer.
            content["timeout"] = httpx.Timeout(self.timeout, read=self.timeout + wait)
        return _checked(self._repeat(self._request(method, path, **content)))

    def once(self, method: str, path: str, **content: Any) -> httpx.Response:
        """As `send`, but never repeated: for a body that can be read only once."""
        response, reason = self._attempt(self._request(method, path, **content))
        if response is None:
            raise self._unreachable(1, reason)
        return _checked(response)

    @contextmanager
    def stream(self, method: str, path: str, **content: Any) -> Iterator[httpx.Response]:
        """As `send`, but the answer is read as it comes. Unreachable, too, when it breaks off in the middle."""
        response = self._repeat(self._request(method, path, **content), stream=True)
        try:
            yield _checked(response)
        except httpx.TransportError as error:
            raise Unreachable(f"the answer of {self._server} broke off: {_said(error)}") from None
        finally:
            response.close()

    def _request(self, method: str, path: str, **content: Any) -> httpx.Request:
        headers = {name: value for name, value in (content.pop("headers", None) or {}).items() if value is not None}
        return self._http.build_request(method, path, headers=headers, **content)

    def _repeat(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        # The very same request each time, so that the server sees the same body under the same Idempotency-Key.
        attempt = 1
        while True:
            response, reason = self._attempt(request, stream=stream)
            if response is not None and response.status_code not in TRY_AGAIN:
                return response
            delay = self.retry.delay(attempt, 0.0 if response is None else retry_after(response, default=0.0))
            if delay is None:
                if response is not None:
                    return response
                raise self._unreachable(attempt, reason)
            self.retry.sleep(delay)
            attempt += 1

    def _attempt(self, request: httpx.Request, *, stream: bool = False) -> tuple[httpx.Response | None, str]:
        try:
            response = self._http.send(request, stream=stream)
            if not response.is_success:
                response.read()  # a refusal is short, and its connection is needed again
        except httpx.LocalProtocolError:
            raise  # the request itself is malformed: the same again cannot help
        except httpx.TransportError as error:
            return None, _said(error)
        return response, ""

    def _unreachable(self, attempts: int, reason: str) -> Unreachable:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        return Unreachable(f"no answer from {self._server} after {times}: {reason}")

    @property
    def _server(self) -> str:
        return self._http.base_url.netloc.decode()


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success or response.status_code == 304:
        return response
    raise api_error(response, retry_after(response, default=0.0))


def _said(error: httpx.TransportError) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def retry_after(response: httpx.Response, *, default: float) -> float:
    """Seconds that the server asks for (RFC 9110, 10.2.3: seconds or a date); `default` without a usable answer."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return default
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
