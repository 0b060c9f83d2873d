"""Connections to receivers: https with the right name, only to addresses that were checked, and over in time."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trustme

from shared.config import Settings
from shared.errors import ConfigError, WebhookDestinationRefused
from worker.deliver.http import WebhookClient

LOOPBACK = (ip_network("127.0.0.0/8"),)


class TlsReceiver:
    """An https server for one host name; keeps the names that clients asked for, the Host headers, and the peers."""

    def __init__(self, authority: trustme.CA, name: str, port: int = 0) -> None:
        self.names: list[str | None] = []
        self.hosts: list[str] = []
        self.connections: set[Any] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                receiver.hosts.append(self.headers["host"])
                receiver.connections.add(self.client_address)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
                """Quiet."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _socket, asked, _context: self.names.append(asked)
        self.server = Quiet(("127.0.0.1", port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port


class Quiet(ThreadingHTTPServer):
    """Says nothing of handshakes that clients break off."""

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The hospital's own certificate authority."""
    return trustme.CA()


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[TlsReceiver]:
    """A receiver called hook.hospital.example."""
    receiver = TlsReceiver(authority, "hook.hospital.example")
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


Resolver = Callable[[dict[str, list[str]]], list[str]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """A resolver of the test's own: each name's answers in their order, the last for ever; what it was asked."""

    def install(answers: dict[str, list[str]]) -> list[str]:
        asked: list[str] = []

        def found(host: str, port: int | None, **_: object) -> list[tuple[Any, ...]]:
            asked.append(host)
            known = answers.get(host)
            if known is None:
                raise socket.gaierror
            address = known.pop(0) if len(known) > 1 else known[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in address.split()]

        monkeypatch.setattr("shared.webhooks.destinations.getaddrinfo", found)
        return asked

    return install


@pytest.fixture
def strict(settings: Settings, authority: trustme.CA, tmp_path: Path) -> Settings:
    """As in production, but for the hospital's authority and for this machine as a network where receivers live."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    changes = {
        "webhook_allow_http": False,
        "webhook_allowed_networks": LOOPBACK,
        "webhook_ca": str(path),
        "webhook_timeout_seconds": 1.0,
    }
    return settings.model_copy(update=changes)


def sent(settings: Settings, url: str, times: int = 1) -> list[int]:
    with contextlib.closing(WebhookClient(settings)) as client:
        return [client.post(url, b"{}", {"Content-Type": "application/json"}).status for _ in range(times)]


def test_an_https_receiver_is_reached_by_its_name(strict: Settings, receiver: TlsReceiver, resolver: Resolver) -> None:
    asked = resolver({"hook.hospital.example": ["127.0.0.1"]})
    url = f"https://hook.hospital.example:{receiver.port}/hook?token=1"
    assert sent(strict, url, times=3) == [200] * 3
    assert asked == ["hook.hospital.example"]  # once: the connection is used again
    assert receiver.names == ["hook.hospital.example"]
    assert receiver.hosts == [f"hook.hospital.example:{receiver.port}"] * 3
    assert len(receiver.connections) == 1


def test_a_certificate_of_another_name_or_of_nobody_is_refused(
    strict: Settings, receiver: TlsReceiver, resolver: Resolver
) -> None:
    resolver({name: ["127.0.0.1"] for name in ("other.example", "hook.hospital.example", "127.0.0.1")})
    with pytest.raises(httpcore.ConnectError):
        sent(strict, f"https://other.example:{receiver.port}/")
    with pytest.raises(httpcore.ConnectError):
        sent(strict, f"https://127.0.0.1:{receiver.port}/")
    unknown = strict.model_copy(update={"webhook_ca": ""})
    with pytest.raises(httpcore.ConnectError):
        sent(unknown, f"https://hook.hospital.example:{receiver.port}/")
    assert receiver.hosts == []


def test_a_connection_to_one_host_is_not_used_for_another_at_the_same_address(
    strict: Settings, receiver: TlsReceiver, resolver: Resolver
) -> None:
    resolver({"hook.hospital.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    with contextlib.closing(WebhookClient(strict)) as client:
        assert client.post(f"https://hook.hospital.example:{receiver.port}/", b"{}", {}).status == 200
        with pytest.raises(httpcore.ConnectError):  # its own handshake, and its own look at the certificate
            client.post(f"https://other.example:{receiver.port}/", b"{}", {})
    assert len(receiver.hosts) == 1


def test_a_name_that_changes_its_address_is_refused_when_connecting(
    strict: Settings, receiver: TlsReceiver, resolver: Resolver
) -> None:
    public = strict.model_copy(update={"webhook_allowed_networks": ()})
    asked = resolver({"rebinding.example": ["127.0.0.1"], "two-faces.example": ["93.184.215.14 127.0.0.1"]})
    for name in ("rebinding.example", "two-faces.example"):
        with pytest.raises(WebhookDestinationRefused, match="not public"):
            sent(public, f"https://{name}:{receiver.port}/")
    assert asked == ["rebinding.example", "two-faces.example"]
    assert receiver.names == []


def test_the_next_address_is_taken_when_the_first_does_not_answer(
    strict: Settings, receiver: TlsReceiver, resolver: Resolver
) -> None:
    resolver({"hook.hospital.example": ["127.9.9.9 127.0.0.1"]})
    assert sent(strict, f"https://hook.hospital.example:{receiver.port}/") == [200]


def test_http_is_refused_also_where_it_was_saved(strict: Settings) -> None:
    with pytest.raises(WebhookDestinationRefused, match="https"):
        sent(strict, "http://127.0.0.1:9/")


def test_certificates_that_cannot_be_read_stop_the_worker(strict: Settings, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    for name in ("none.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="THORAQ_WEBHOOK_CA"):
            WebhookClient(strict.model_copy(update={"webhook_ca": str(tmp_path / name)}))


def dripping(answer: bytes, connection: socket.socket) -> None:
    """One byte of the answer a moment, for as long as the other side listens."""
    with connection, contextlib.suppress(OSError):
        connection.recv(65536)
        for byte in answer:
            connection.sendall(bytes([byte]))
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000, None),  # a head that never ends
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, 200),  # a body that is not read
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000, 200),
    ],
)
def test_a_receiver_that_drips_is_let_go_in_time(strict: Settings, answer: bytes, status: int | None) -> None:
    plain = strict.model_copy(update={"webhook_allow_http": True, "webhook_timeout_seconds": 0.5})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        # The whole head at once, where it is not the head that drips.
        head, end, body = answer.partition(b"\r\n\r\n")

        def serve() -> None:
            connection, _ = listening.accept()
            if end:
                connection.recv(65536)
                connection.sendall(head + end)
                dripping(body, connection)
            else:
                dripping(head, connection)

        thread = threading.Thread(target=serve)
        thread.start()
        if status is None:
            with pytest.raises(httpcore.ReadTimeout):
                sent(plain, url)
        else:
            assert sent(plain, url) == [status]
        thread.join(10)  # long before its thousand bytes are out
        assert not thread.is_alive()


def test_an_endless_head_is_cut_off(strict: Settings) -> None:
    plain = strict.model_copy(update={"webhook_allow_http": True, "webhook_timeout_seconds": 30.0})
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(httpcore.RemoteProtocolError):
            sent(plain, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join(10)
        assert not thread.is_alive()
