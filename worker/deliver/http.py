"""One request to a receiver, and nowhere else.

The name is resolved once, when a connection is made; every address is checked, and the connection goes to one of
those. TLS and the Host header keep the name, so the receiver's certificate is that of the URL, and connections are
kept by name: one to a host is never used for another host at the same address. No redirect is followed and no proxy
asked. A request has a time in which all of it must be over, however slowly the receiver talks.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import certifi
import httpcore

from shared.config import Settings
from shared.errors import ConfigError
from shared.setting_types import Networks
from shared.webhooks.destinations import addresses_of, check_url
from worker.deliver.receiver_responses import HEAD_CHARACTERS, ReceiverAnswer, read_answer

#: What may come back before it is read to its end, so that the connection can be used again; else it is closed.
MOST_RESPONSE_BYTES = 16_384
#: Enough of a longer one for its first characters, whatever their encoding.
HEAD_BYTES = 4 * HEAD_CHARACTERS
#: Failures of a delivery, by the names that its record shows.
Failure = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


class _Deadline(threading.local):
    """When the request of this thread must be over, by the monotonic clock."""

    at = 0.0

    def left(self, timeout: float | None) -> float:
        """Seconds for the next step, at most `timeout`; ReadTimeout when none are left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(left, timeout)


class WebhookClient:
    """Sends; may be shared by threads. ConfigError when the certificates of THORAQ_WEBHOOK_CA cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._deadline = _Deadline()
        self._pool = httpcore.ConnectionPool(
            ssl_context=_trust(settings),
            max_connections=settings.webhook_threads,
            keepalive_expiry=5,
            network_backend=_Checked(settings.webhook_allowed_networks, self._deadline),
        )

    def post(self, url: str, body: bytes, headers: dict[str, str]) -> ReceiverAnswer:
        """Return what the receiver answers; WebhookDestinationRefused, or one of `Failure`."""
        parts = check_url(url, allow_http=self._settings.webhook_allow_http)
        seconds = self._settings.webhook_timeout_seconds
        self._deadline.at = time.monotonic() + 2 * seconds  # to connect, and to answer
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        target = httpcore.URL(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port,
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        with self._pool.stream(
            "POST",
            target,
            headers=[("Host", parts.netloc), ("Content-Length", str(len(body))), *headers.items()],
            content=body,
            extensions={"timeout": timeouts},
        ) as response:
            return read_answer(response.status, response.headers, self._body(response))

    def _body(self, response: httpcore.Response) -> bytes:
        """Read a short body to its end, or the beginning of one that says what went wrong.

        The status counts, and it is here: whatever comes of the body is no matter.
        """
        declared = {name.lower(): value for name, value in response.headers}.get(b"content-length", b"")
        short = response.status == 204 or (declared.isdigit() and int(declared) <= MOST_RESPONSE_BYTES)
        if not short and response.status < 300:
            return b""
        body = b""
        try:
            for chunk in response.iter_stream():
                body += chunk[: MOST_RESPONSE_BYTES - len(body)]
                if not short and len(body) >= HEAD_BYTES:
                    break
        except Failure:
            return body
        return body

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.close()


class _Checked(httpcore.NetworkBackend):
    """Connects to addresses that were checked, and to no other."""

    def __init__(self, allowed: Networks, deadline: _Deadline) -> None:
        self._allowed, self._deadline = allowed, deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return the first of the host's addresses that takes the connection."""
        failed: Exception = httpcore.ConnectError()
        for address in addresses_of(host, port, self._allowed):
            try:
                left = self._deadline.left(timeout)
                stream = self._inner.connect_tcp(str(address), port, left, local_address, socket_options)
                return _Bounded(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


class _Bounded(httpcore.NetworkStream):
    """A connection on which no step outlasts the request's time."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout)
        return _Bounded(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _trust(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    if settings.webhook_ca:
        try:
            context.load_verify_locations(settings.webhook_ca)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError("THORAQ_WEBHOOK_CA: no certificates can be read from it") from error
    return context
