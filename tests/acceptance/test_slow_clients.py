"""Clients that say nothing, send slowly, wait or go away, by the hundred: others are served meanwhile."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from shared.db.engine import Database
from shared.keys import Scope
from tests.support.api import PNG, new_key, work
from tests.support.rows import add_job, add_tenant
from tests.support.servers.api import Server
from tests.support.waiting import EVENT_SECONDS, until

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


class Crowd:
    """Many connections to the server."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._address, self._stack = (host, int(port)), stack

    def join(self, many: int, said: str = "") -> list[socket.socket]:
        """So many more, each of which says this and then nothing."""
        found = []
        for _ in range(many):
            connection = self._stack.enter_context(socket.create_connection(self._address, EVENT_SECONDS))
            connection.sendall(said.encode())
            found.append(connection)
        return found


@pytest.fixture
def crowd(server: Server) -> Iterator[Crowd]:
    with ExitStack() as stack:
        yield Crowd(server, stack)


def request(line: str, *headers: str) -> str:
    """The head of a request."""
    return "".join(f"{part}\r\n" for part in (f"{line} HTTP/1.1", "Host: thoraq", *headers)) + "\r\n"


def serves(client: httpx.Client) -> None:
    """A health check, a submission, a poll and a preview are answered."""
    assert client.get("/healthz").json() == {"status": "alive"}
    sent = client.post("/v1/jobs", files={"files": PNG}, data={"classifier": "binary", "modality": "xray"})
    assert sent.status_code == 202
    assert client.get(f"/v1/jobs/{sent.json()['id']}").json()["status"] == "queued"
    study = f"/v1/studies/{sent.json()['study_id']}"
    (image,) = client.get(study).json()["images"]
    # By a decoder, to whom a socket leads: one of more than a thousand files that are open then.
    assert client.get(f"{study}/images/{image['id']}/preview").is_success


def test_health_is_answered_as_everything_else_is(client: httpx.Client) -> None:
    alive, problem = client.get("/healthz"), client.get("/nowhere")
    told = {name for name in problem.headers if name.startswith(("x-content", "content-security", "cache"))}
    assert {name: alive.headers[name] for name in told} == {name: problem.headers[name] for name in told}
    assert len(told) == 3
    assert (client.head("/healthz").status_code, client.request("TRACE", "/healthz").status_code) == (200, 405)


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes; 0 where the connection is closed without one."""
    found = re.match(rb"HTTP/1\.1 (\d+)", connection.recv(4096))
    return int(found[1]) if found else 0


def test_strangers_who_say_nothing_stop_nobody(crowd: Crowd, client: httpx.Client) -> None:
    silent = crowd.join(1_200)
    broken_off = crowd.join(80, "POST /sign-in HTTP/1.1\r\nHost: thoraq\r\nContent-")
    held = crowd.join(80, request("POST /sign-in", FORM + "Content-Length: 1000") + "ab")
    serves(client)
    assert status_of(held[0]) == 408
    assert {status_of(one) for one in (silent[0], silent[-1], broken_off[0], broken_off[-1])} == {0}


def test_no_body_is_read_before_its_key_is_known(crowd: Crowd, client: httpx.Client) -> None:
    announced = request("POST /v1/jobs", "Authorization: Bearer tq_no", "Content-Length: 1000")
    (upload,) = crowd.join(1, request("PUT /uploads/upl_1/content?tenant=a&expires=1&signature=x", "Content-Length: 9"))
    (sign_in,) = crowd.join(1, request("POST /sign-in", FORM + "Content-Length: 900000"))
    assert {status_of(one) for one in crowd.join(20, announced)} == {401}
    assert (status_of(upload), status_of(sign_in)) == (403, 413)
    serves(client)


def test_one_tenants_slow_bodies_do_not_stop_another(
    crowd: Crowd, client: httpx.Client, clean_database: Database
) -> None:
    key = new_key(clean_database, Scope.JOBS_WRITE, tenant="south")
    kind = "Content-Type: multipart/form-data; boundary=b"
    slow = crowd.join(80, request("POST /v1/jobs", f"Authorization: Bearer {key}", kind, "Content-Length: 1000") + "--")
    serves(client)
    for connection in slow:
        connection.close()
    with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=EVENT_SECONDS) as another:
        serves(another)


def test_a_thousand_may_wait_and_each_is_told(crowd: Crowd, client: httpx.Client, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session, "south")).id
    key = new_key(clean_database, Scope.JOBS_READ, tenant="south")
    waiting = crowd.join(1_000, request(f"GET /v1/jobs/{job_id}", f"Authorization: Bearer {key}", "Prefer: wait=60"))
    serves(client)
    work(clean_database)
    for connection in waiting:
        answer = b""
        while b"\r\n\r\n" not in answer or b"notice" not in answer:
            answer += (part := connection.recv(65536))
            assert part, answer
        assert b'"status":"succeeded"' in answer


def waiting_at(client: httpx.Client) -> float:
    """How many requests wait, as /metrics has it."""
    found = re.search(r"^thoraq_waits ([\d.]+)$", client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_wait_whose_client_has_gone_is_given_up(crowd: Crowd, client: httpx.Client, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        job_id = add_job(session, add_tenant(session, "south")).id
    key = new_key(clean_database, Scope.JOBS_READ, tenant="south")
    waits = crowd.join(50, request(f"GET /v1/jobs/{job_id}", f"Authorization: Bearer {key}", "Prefer: wait=3600"))
    until(lambda: waiting_at(client) == len(waits))
    for connection in waits:
        connection.close()
    until(lambda: not waiting_at(client))


def test_an_event_stream_whose_client_has_gone_is_given_up(crowd: Crowd, client: httpx.Client) -> None:
    sent = client.post("/v1/batches", files={"files": PNG}, data={"classifier": "binary", "modality": "xray"})
    head = request(f"GET /v1/batches/{sent.json()['id']}/events", f"Authorization: {client.headers['Authorization']}")
    streams = crowd.join(8, head)
    until(lambda: waiting_at(client) == len(streams))
    for connection in streams:
        connection.close()
    until(lambda: not waiting_at(client))
