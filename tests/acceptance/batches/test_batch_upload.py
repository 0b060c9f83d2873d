"""Batches over real connections: cut in the middle, sent twice at once, larger than the server's memory may grow."""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.api import PNG
from tests.support.batches import counts, packed, streamed
from tests.support.files.images import png_header
from tests.support.servers.api import Server, peak_memory

QUERY = {"classifier": "binary", "modality": "xray"}
ALLOWED_GROWTH = 50_000_000


def members(count: int) -> list[tuple[str, bytes]]:
    """Pictures with bytes of their own."""
    return [(f"{number}.png", PNG + struct.pack("<I", number)) for number in range(count)]


def request(client: httpx.Client, key: str, content: Any, **query: Any) -> httpx.Request:
    # A server that refuses before it has read the body ends the connection: it is of no use to the next request.
    headers = {"Idempotency-Key": key, "Content-Type": "application/zip", "Connection": "close"}
    return client.build_request("POST", "/v1/batches", params=QUERY | query, headers=headers, content=content)


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def head(asked: httpx.Request, **changes: str) -> bytes:
    """The request's first lines, as they go over the wire."""
    lines = {name.decode(): value.decode() for name, value in asked.headers.raw} | changes
    return f"POST {asked.url.raw_path.decode()} HTTP/1.1\r\n".encode() + b"".join(
        f"{name}: {value}\r\n".encode() for name, value in lines.items()
    ) + b"\r\n"  # fmt: skip


def begun(client: httpx.Client, key: str) -> dict[str, Any]:
    """The batch of this key, once there is one with items."""
    while True:
        found = client.get("/v1/batches", params={"idempotency_key": key}).json()["data"]
        if found and found[0]["counts"]["total"]:
            batch: dict[str, Any] = found[0]
            return batch
        time.sleep(0.05)


def go_on(client: httpx.Client, key: str, archive: bytes, **query: Any) -> httpx.Response:
    """Send it as soon as the server has noticed that the connection before is gone."""
    while True:
        answer = client.send(request(client, key, archive, **query))
        if answer.status_code != 409:
            return answer
        assert answer.json()["type"].endswith("#idempotency-in-progress")
        time.sleep(0.2)


def test_a_connection_that_breaks_off_is_taken_up(server: Server, client: httpx.Client) -> None:
    archive = packed(*members(20))
    asked = request(client, "cut", archive)
    with connect(server) as connection:
        connection.sendall(head(asked) + archive[: len(archive) // 2])
        batch = begun(client, "cut")  # while the connection stands: items are in, and their jobs may run
        assert (batch["status"], batch["counts"]["rejected"]) == ("receiving", 0)
        assert client.send(request(client, "cut", archive)).status_code == 409
    answer = go_on(client, "cut", archive)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["id"], answer.json()["counts"]) == (batch["id"], counts(total=20, queued=20))
    results = client.get(f"/v1/batches/{batch['id']}/results").text.splitlines()
    assert len(results) == 20


def test_a_chunked_body_that_ends_early_is_not_taken_for_whole(server: Server, client: httpx.Client) -> None:
    archive = streamed(*members(20))
    asked = request(client, "chunked", iter([archive]))
    half = archive[: len(archive) // 2]
    with connect(server) as connection:
        connection.sendall(head(asked) + f"{len(half):x}\r\n".encode() + half + b"\r\n")
        begun(client, "chunked")
    answer = go_on(client, "chunked", archive)
    assert answer.status_code == 202, answer.text
    assert answer.json()["counts"] == counts(total=20, queued=20)


def large(count: int, size: int) -> Iterator[bytes]:
    """A ZIP of pictures, made on the way: headers with padding, which the edge takes for pictures."""
    directory, offset = b"", 0
    for number in range(count):
        name, content = f"{number}.png".encode(), png_header(1000, 1000) + struct.pack("<I", number) + bytes(size)
        local = local_header(name, content)
        directory += directory_entry(name, content, offset)
        offset += len(local) + len(content)
        yield local + content
    yield directory + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), offset, 0)


def local_header(name: bytes, content: bytes) -> bytes:
    """Stored, with its sizes (APPNOTE, 4.3.7)."""
    return b"PK\x03\x04" + _entry(name, content) + name


def directory_entry(name: bytes, content: bytes, offset: int) -> bytes:
    """The same member in the archive's directory (APPNOTE, 4.3.12)."""
    return (
        b"PK\x01\x02" + struct.pack("<H", 20) + _entry(name, content) + struct.pack("<3H2I", 0, 0, 0, 0, offset) + name
    )


def _entry(name: bytes, content: bytes) -> bytes:
    """What both have in common, from the version to the length of the extra field."""
    size = len(content)
    return struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(content), size, size, len(name), 0)


def test_memory_stays_flat_while_300_megabytes_come_in(server: Server, client: httpx.Client) -> None:
    first = client.send(request(client, "warm", large(3, 1000)))
    assert first.status_code == 202, first.text
    with peak_memory(server) as samples:
        answer = client.send(request(client, "large", large(150, 2_000_000)))
    assert answer.status_code == 202, answer.text
    assert answer.json()["counts"] == counts(total=150, queued=150)
    assert max(samples) - samples[0] < ALLOWED_GROWTH
