"""What the client's methods are made of: a request, a page after the other, a look until something is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from client.batch_models import Batch
from client.models import Job
from client.transport import Retry, Transport, retry_after
from client.waits import WaitTimeout

LONG_POLL_SECONDS = 20.0  # below the idle limits of common proxies
POLL_SECONDS = 1.0  # between looks, when the server does not say

Waited = TypeVar("Waited", Job, Batch)


class Calls:
    """A server's address and key, and the ways to ask it."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0, retry: Retry | None = None) -> None:
        self._retry = retry or Retry()
        self._transport = Transport(url, key, timeout=timeout, retry=self._retry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _post(self, path: str, idempotency_key: str | None = None, **content: Any) -> httpx.Response:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._transport.send("POST", path, headers=headers, **content)

    def _pages(self, path: str, query: dict[str, Any]) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self._transport.send("GET", path, params=query | given(cursor=cursor)).json()
            yield from page["data"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def _look(self, path: str, tag: str | None, wait: float | None = None) -> httpx.Response:
        return self._transport.send("GET", path, wait=wait, headers={"If-None-Match": tag})

    def _follow(self, path: str, kind: type[Waited], timeout: float | None) -> Waited:
        clock = self._retry.clock
        end = None if timeout is None else clock() + timeout
        last: Waited | None = None
        tag: str | None = None
        while True:
            began = clock()
            left = LONG_POLL_SECONDS if end is None else max(0.0, min(LONG_POLL_SECONDS, end - began))
            response = self._look(path, tag, wait=left)
            if response.status_code != 304:
                last, tag = kind.model_validate(response.json()), response.headers.get("ETag")
            if last is not None and last.done:
                return last
            now = clock()
            if end is not None and now >= end and last is not None:
                raise WaitTimeout(last)
            # A server that held its answer has paused for us; one that did not is given the pause it asks for.
            pause = retry_after(response, default=POLL_SECONDS) - (now - began)
            self._retry.sleep(max(0.0, pause if end is None else min(pause, end - now)))


def route(*names: str) -> str:
    """Return the route's path; an id that was mistyped must not become another route."""
    return "/".join(("/v1", *(quote(name, safe="") for name in names)))


def given(**values: Any) -> dict[str, Any]:
    """Only what was given; a null would be an answer of its own."""
    return {name: value for name, value in values.items() if value is not None}


def id_of(thing: str | Job | Batch) -> str:
    """Return an id, of whatever a caller holds."""
    return thing if isinstance(thing, str) else thing.id
