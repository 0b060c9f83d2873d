"""Starts and stops the peers, and sends them images."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from standalone.process import Service
from standalone.programs import Program
from standalone.services import HOST, Redis, free_port

TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.1
GRANIAN = ["granian", "--interface", "wsgi", "--host", HOST, "--workers", "1"]


class Web(Program):
    """A Flask app under granian: one process, a thread for each of `clients`."""

    ready_seconds = 180  # the model loads before it serves
    death_signal = "TERM"  # told to end rather than killed when we die: its worker process must go with it

    def __init__(self, factory: str, clients: int, environment: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        size = ["--port", str(self.port), "--blocking-threads", str(clients), "--workers-kill-timeout", "2"]
        super().__init__(factory, [*GRANIAN, *size, "--factory", factory], environment, log)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False


class SyncFlask:
    """One request per image; the answer comes in it."""

    name = "synchronous Flask"

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def classify(self, file: Path) -> Mapping[str, float]:
        """httpx.HTTPError without an answer."""
        return _probabilities(self._http.post("/classify", files={"file": file.read_bytes()}).raise_for_status().json())


class OrdinaryCelery:
    """One request to submit, then polls."""

    name = "ordinary Celery"

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def classify(self, file: Path) -> Mapping[str, float]:
        """httpx.HTTPError without an answer; TimeoutError when it takes minutes."""
        job = self._http.post("/jobs", files={"file": file.read_bytes()}).raise_for_status().json()["id"]
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            found = self._http.get(f"/jobs/{job}").raise_for_status().json()["probabilities"]
            if found is not None:
                return _probabilities(found)
            time.sleep(POLL_SECONDS)
        raise TimeoutError("the ordinary Celery design did not answer in time")


@contextmanager
def sync_flask(folder: Path, bundle: Path, clients: int) -> Iterator[SyncFlask]:
    """The synchronous Flask app, up; stopped at the end."""
    environment = {**os.environ, "BENCH_BUNDLE": str(bundle)}
    web = Web("bench.peers.flask_app:create_app", clients, environment, folder / "sync-flask.log")
    with _running(web), _http(web) as http:
        yield SyncFlask(http)


@contextmanager
def ordinary_celery(folder: Path, bundle: Path, clients: int) -> Iterator[OrdinaryCelery]:
    """The ordinary Celery design, up, with a Redis of its own; all stopped at the end."""
    uploads = folder / "uploads"
    uploads.mkdir()
    redis = Redis(folder / "peer-redis", secrets.token_hex(16), log=folder / "peer-redis.log")
    environment = {
        **os.environ,
        "BENCH_BUNDLE": str(bundle),
        "BENCH_REDIS_URL": redis.url,
        "BENCH_UPLOADS": str(uploads),
    }
    worker = Program("celery", _worker(), environment, folder / "peer-worker.log")
    web = Web("bench.peers.celery_app:create_app", clients, environment, folder / "peer-web.log")
    with _running(redis), _running(worker, web), _http(web) as http:
        yield OrdinaryCelery(http)


def _worker() -> list[str]:
    # Celery's default pool: as many processes as cores, each with its model.
    return ["celery", "-A", "bench.peers.celery_app", "worker", "--loglevel", "WARNING"]


@contextmanager
def _running(*services: Service) -> Iterator[None]:
    with ExitStack() as stack:
        for service in services:
            stack.callback(service.stop)
            service.start()
        for service in services:
            service.wait_ready()
        yield


def _http(web: Web) -> httpx.Client:
    return httpx.Client(base_url=web.url, timeout=TIMEOUT_SECONDS)


def _probabilities(found: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items()}
