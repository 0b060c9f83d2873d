"""The peers as systems that answer one image after the other, up and ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.peers.celery_peer import CeleryPeer
from bench.peers.environment import BUNDLE, LITSERVE_PORT, OUR_ENGINE
from bench.peers.servers import Web, flask_server, running

TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.1


class Synchronous:
    """One request per image; the answer comes in it. `answer` takes it out of the response's JSON."""

    def __init__(
        self, name: str, http: httpx.Client, path: str, field: str, answer: Callable[[Any], Any] = lambda found: found
    ) -> None:
        self.name = name
        self._http, self._path, self._field, self._answer = http, path, field, answer

    def classify(self, file: Path) -> Mapping[str, float]:
        """httpx.HTTPError without an answer."""
        sent = self._http.post(self._path, files={self._field: (file.name, file.read_bytes())}).raise_for_status()
        return as_numbers(self._answer(sent.json()))


class OrdinaryCelery:
    """One request to submit, then polls."""

    name = "ordinary Celery"

    def __init__(self, http: httpx.Client, name: str = name) -> None:
        self.name, self._http = name, http

    def classify(self, file: Path) -> Mapping[str, float]:
        """httpx.HTTPError without an answer; TimeoutError when it takes minutes."""
        return self.wait(self.submit(file))

    def submit(self, file: Path) -> str:
        """Return the job's id; httpx.HTTPError."""
        job: str = self._http.post("/jobs", files={"file": file.read_bytes()}).raise_for_status().json()["id"]
        return job

    def wait(self, job: str) -> Mapping[str, float]:
        """As `classify`, for a job that was submitted."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            found = self._http.get(f"/jobs/{job}").raise_for_status().json()["probabilities"]
            if found is not None:
                return as_numbers(found)
            time.sleep(POLL_SECONDS)
        raise TimeoutError("the ordinary Celery design did not answer in time")


class Setting(NamedTuple):
    """Where a peer keeps its things, the bundle that it runs, and whether Thoraq's engine runs it, or Keras."""

    folder: Path
    bundle: Path
    our_engine: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        return {BUNDLE: str(self.bundle)} | ({OUR_ENGINE: "1"} if self.our_engine else {})

    def named(self, name: str) -> str:
        """Return the peer's name in the results."""
        return f"{name}, our engine" if self.our_engine else name


@contextmanager
def sync_flask(setting: Setting, clients: int) -> Iterator[Synchronous]:
    """Start the synchronous Flask app."""
    log = setting.folder / "sync-flask.log"
    web = flask_server("bench.peers.flask_app:create_app", clients, log, setting.environment)
    with running(web), _http(web) as http:
        yield Synchronous(setting.named("synchronous Flask"), http, "/classify", "file")


@contextmanager
def ordinary_celery(setting: Setting, clients: int) -> Iterator[OrdinaryCelery]:
    """Start the ordinary Celery design, with a Redis of its own."""
    peer = CeleryPeer(setting.folder / "celery", clients, **setting.environment)
    with running(peer.redis), running(peer.worker, peer.web), _http(peer.web) as http:
        yield OrdinaryCelery(http, setting.named(OrdinaryCelery.name))


@contextmanager
def bentoml(setting: Setting) -> Iterator[Synchronous]:
    """BentoML with adaptive batching."""
    command = ["bentoml", "serve", "bench.peers.bento_service:Xrays", "--host", "127.0.0.1", "--port", "{port}"]
    home = {"BENTOML_HOME": str(setting.folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    web = Web("BentoML", command, setting.folder / "bentoml.log", health="/readyz", **setting.environment, **home)
    with running(web), _http(web) as http:
        # A batchable method takes lists from everybody: here, of one.
        yield Synchronous(setting.named("BentoML"), http, "/classify", "files", lambda found: found[0])


@contextmanager
def litserve(setting: Setting) -> Iterator[Synchronous]:
    """LitServe with batching."""
    command = ["bench.peers.litserve_server"]
    environment = {**setting.environment, LITSERVE_PORT: "{port}"}
    web = Web("LitServe", command, setting.folder / "litserve.log", health="/health", **environment)
    with running(web), _http(web) as http:
        yield Synchronous(setting.named("LitServe"), http, "/predict", "file")


def as_numbers(found: Mapping[str, float]) -> dict[str, float]:
    """Probability by class."""
    return {name: float(value) for name, value in found.items()}


def _http(web: Web) -> httpx.Client:
    return httpx.Client(base_url=web.url, timeout=TIMEOUT_SECONDS)
