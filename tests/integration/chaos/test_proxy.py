"""The proxy fails as it is told, and not otherwise."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from standalone.services import HOST
from tests.chaos.proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while piece := self.request.recv(65536):
            self.request.sendall(piece)
            if piece == b"quit":
                return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that repeats what it hears."""
    with Server((HOST, 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy("echo", server.server_address[1]) as proxy:
            yield proxy
        server.shutdown()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=0.5)


def ask(connection: socket.socket, piece: bytes = b"ping") -> bytes:
    """What comes back within half a second."""
    connection.sendall(piece)
    return connection.recv(65536)


def test_it_passes_everything_and_ends_both_ends_together(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        assert [ask(one, b"1"), ask(other, b"2")] == [b"1", b"2"]
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
        assert ask(other) == b"ping"


def test_what_is_delayed_comes_later(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.delay(0.4)
        with pytest.raises(TimeoutError):  # twice 0.4 s: there and back
            ask(connection)
        assert connection.recv(4) == b"ping"


def test_a_black_hole_keeps_everything_until_it_is_mended(proxy: Proxy) -> None:
    proxy.black_hole()
    with connect(proxy) as connection:
        with pytest.raises(TimeoutError):
            ask(connection)
        proxy.mend()
        assert connection.recv(4) == b"ping"


def test_half_open_connections_stay_dead_and_new_ones_work(proxy: Proxy) -> None:
    with connect(proxy) as old, connect(proxy) as new:
        ask(old)
        proxy.half_open()
        with pytest.raises(TimeoutError):
            ask(old)
        new.close()
        with connect(proxy) as newer:
            assert ask(newer) == b"ping"
        proxy.mend()
        with pytest.raises(TimeoutError):
            old.recv(4)


def test_a_reset_ends_the_connections_there_are(proxy: Proxy) -> None:
    with connect(proxy) as old:
        ask(old)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with connect(proxy) as new:
        assert ask(new) == b"ping"


def test_who_is_refused_is_taken_again_on_the_same_port(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.mend()
    with connect(proxy) as connection:
        assert ask(connection) == b"ping"


def test_a_server_that_is_not_there_is_a_reset(proxy: Proxy) -> None:
    proxy.target = proxy.port + 1 if proxy.port < 65535 else 1
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:
        ask(connection)


def test_an_answer_is_cut_off_as_if_it_were_whole(proxy: Proxy) -> None:
    proxy.cut(6)
    with connect(proxy) as connection:
        assert ask(connection) == b"ping"
        assert ask(connection) == b"pi"
        assert connection.recv(1) == b""


@pytest.mark.parametrize("before", [True, False])
def test_a_trap_catches_who_says_its_words_and_nobody_else(proxy: Proxy, before: bool) -> None:
    caught = proxy.trap(b"insert", b"commit", before=before)
    with connect(proxy) as one, connect(proxy) as other:
        assert ask(one, b"commit") == b"commit"
        assert ask(one, b"insert") == b"insert"
        assert ask(other, b"commit") == b"commit"
        assert not caught.is_set()
        with pytest.raises(TimeoutError):
            ask(one, b"commit")
        assert caught.wait(5)
        assert ask(other) == b"ping"


def test_who_is_caught_hears_that_the_other_end_hung_up_when_all_is_mended(proxy: Proxy) -> None:
    proxy.trap(b"quit", before=False)
    with connect(proxy) as connection:
        with pytest.raises(TimeoutError):
            ask(connection, b"quit")
        proxy.mend()
        assert connection.recv(1) == b""
