"""What strangers and hospital A do. Each attack goes on until it is told to stop, in some threads of its own."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from urllib.parse import urlsplit

import httpx

from tests.siege.files import costly_files, plain_file

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Target:
    """The server, A's key, and what chance is made of."""

    url: str
    key: str
    seed: int
    #: connections that say nothing, and as many that wait
    crowd: int

    @property
    def authorization(self) -> str:
        return f"Authorization: Bearer {self.key}\r\n"

    def client(self) -> httpx.Client:
        """Return a client of A, which is patient for a while."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_SECONDS)


Attack = Callable[[Target, threading.Event], None]


def _hold(target: Target, over: threading.Event, many: int, said: str) -> None:
    """So many connections that say this and then nothing; closed ones are opened again."""
    parts = urlsplit(target.url)
    address = (parts.hostname or "", parts.port or 80)
    with ExitStack() as stack:
        held: list[socket.socket] = []
        while not over.wait(0.05):
            while len(held) < many and not over.is_set():
                with suppress(OSError):
                    connection = socket.create_connection(address, 5)
                    stack.callback(connection.close)
                    connection.sendall(said.encode())
                    connection.setblocking(False)
                    held.append(connection)
            held = [connection for connection in held if not _is_closed(connection)]


def _is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _loop(target: Target, over: threading.Event, do: Callable[[httpx.Client, random.Random], object]) -> None:
    """Do it again and again, whatever the answer is."""
    chance = random.Random(target.seed)  # noqa: S311 - no secret
    with target.client() as client:
        while not over.is_set():
            with suppress(httpx.HTTPError):
                do(client, chance)


def silence(target: Target, over: threading.Event) -> None:
    """A stranger's connections without a word."""
    _hold(target, over, target.crowd, "")


def half_a_sign_in(target: Target, over: threading.Event) -> None:
    """A stranger's sign-ins of which two bytes come."""
    form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n"
    _hold(target, over, 80, f"POST /sign-in HTTP/1.1\r\nHost: t\r\n{form}\r\nab")


def unknown_keys(target: Target, over: threading.Event) -> None:
    """A stranger who guesses."""
    _loop(target, over, lambda client, chance: client.get("/v1/jobs", headers={"Authorization": _guess(chance)}))


def _guess(chance: random.Random) -> str:
    return f"Bearer tq_{chance.randbytes(32).hex()}"


def slow_bodies(target: Target, over: threading.Event) -> None:
    """A's submissions that stop in the middle."""
    head = f"{target.authorization}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n"
    _hold(target, over, 80, f"POST /v1/jobs HTTP/1.1\r\nHost: t\r\n{head}\r\n--b\r\n")


def lies_about_length(target: Target, over: threading.Event) -> None:
    """A's announcements of bodies that never come."""
    head = f"{target.authorization}Content-Length: 900000000000\r\n"
    _hold(target, over, 40, f"GET /v1/jobs HTTP/1.1\r\nHost: t\r\n{head}\r\n")


def waits(target: Target, over: threading.Event) -> None:
    """Thousands of A who wait for a job that is far behind in line."""
    with target.client() as client:
        fields = {"classifier": "binary", "modality": "xray", "priority": "bulk"}
        job = client.post("/v1/jobs", files={"files": plain_file(0)}, data=fields).json()
    line = f"GET /v1/jobs/{job.get('id', 'job_0')} HTTP/1.1\r\nHost: t\r\n"
    _hold(target, over, target.crowd, f"{line}{target.authorization}Prefer: wait=60\r\n\r\n")


def stat_flood(target: Target, over: threading.Event) -> None:
    """Everything of A is stat."""
    numbers = count(1)

    def submit(client: httpx.Client, _: random.Random) -> None:
        fields = {"classifier": "binary", "modality": "xray", "priority": "stat"}
        client.post("/v1/jobs", files={"files": plain_file(next(numbers))}, data=fields)

    _loop(target, over, submit)


def costly(target: Target, over: threading.Event) -> None:
    """Small files of A that are long work, each asked about twice, as stat; and their previews."""
    files = costly_files()

    def submit(client: httpx.Client, chance: random.Random) -> None:
        # Bytes that nobody reads, so that no answer is taken from before.
        data = chance.choice(files) + chance.randbytes(8)
        fields = {"classifier": "binary", "modality": "xray", "priority": "stat"}
        job = client.post("/v1/jobs", files={"files": data}, data=fields).json()
        if "study_id" in job:
            images = client.get(f"/v1/studies/{job['study_id']}").json()["images"]
            with suppress(httpx.ReadTimeout):
                client.get(f"/v1/studies/{job['study_id']}/images/{images[0]['id']}/preview", timeout=2)

    _loop(target, over, submit)


def lists(target: Target, over: threading.Event) -> None:
    """Long lists with all that belongs to them."""
    _loop(target, over, lambda client, _: client.get("/v1/jobs", params={"limit": 200, "include": "result"}))


def endpoints(target: Target, over: threading.Event) -> None:
    """Webhook endpoints that come and go, to where nobody answers."""

    def flap(client: httpx.Client, _: random.Random) -> None:
        asked = {"url": "http://127.0.0.1:9/hook", "events": ["*"]}
        made = client.post("/v1/webhook-endpoints", json=asked)
        if made.status_code == 201:
            client.delete(f"/v1/webhook-endpoints/{made.json()['id']}")

    _loop(target, over, flap)


def announcements(target: Target, over: threading.Event) -> None:
    """Direct uploads that are announced and never sent."""
    files = [{"size_bytes": 1_000, "sha256": "0" * 64}] * 50
    _loop(target, over, lambda client, _: client.post("/v1/uploads", json={"files": files}))


ATTACKS: tuple[Attack, ...] = (
    silence,
    half_a_sign_in,
    unknown_keys,
    slow_bodies,
    lies_about_length,
    waits,
    stat_flood,
    costly,
    lists,
    endpoints,
    announcements,
)
