"""Our own processes, as standalone calls them: the API, the two kinds of worker, beat."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from standalone.process import Service, ServiceFailed
from standalone.services import HOST

CELERY = ["celery", "-A", "worker.app"]
WORKER = [*CELERY, "worker", "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]

#: Each connection costs little, so there may be many. One that says nothing, between two requests too, is closed after
#: ten seconds.
EDGE = ["--interface", "asginl", "--http", "1", "--no-ws", "--http1-header-read-timeout", "10000", "--backlog", "4096"]
EDGE += ["--backpressure", "8192"]


class Program(Service):
    """Python runs one of our modules, or a server with our code in it, with the stack's environment."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        super().__init__(name, log)
        self._arguments = arguments
        self._environment = environment

    def command(self) -> list[str]:
        return [sys.executable, "-m", *self._arguments]

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def ready(self) -> bool:
        """Check that it runs; /readyz of the API says whether it works."""
        return self.running


class Api(Program):
    """The API server. Told to end rather than killed when we die: its own worker processes must go with it.

    Its processes count into files of the folder `metrics`, so that /metrics is the same whichever answers. The folder
    is in memory: the files are mapped, and a process that writes to one on a full disk dies of SIGBUS.
    """

    death_signal = "TERM"

    def __init__(
        self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path, metrics: Path
    ) -> None:
        super().__init__(name, arguments, {**environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}, log)
        self._metrics = metrics

    def prepare(self) -> None:
        """Begin counting at 0: the files are named after processes that have ended."""
        shutil.rmtree(self._metrics, ignore_errors=True)
        try:
            self._metrics.mkdir(mode=0o700)
        except FileExistsError:
            raise ServiceFailed(f"{self._metrics} is there and cannot be emptied: remove it") from None

    def wait_stopped(self, timeout: float) -> bool:
        stopped = super().wait_stopped(timeout)
        shutil.rmtree(self._metrics, ignore_errors=True)
        return stopped


def metrics_folder(data: Path) -> Path:
    """Return the folder in memory where the API of a data folder counts, the same at each start."""
    memory = Path("/dev/shm")  # noqa: S108 - memory, with a name of our own below
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    digest = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]
    return parent / f"thoraq-metrics-{os.getuid()}-{digest}"


def programs(environment: Mapping[str, str], *, port: int, data: Path, logs: Path) -> list[Program]:
    """Every process of ours, the slowest to start first; the API listens on loopback, on `port`."""

    def log(name: str) -> Path:
        return logs / f"{name}.log"

    classify = ["--queues", "classify", "--pool", "solo", "--concurrency", "1", "--hostname", "classify@%h"]
    deliver = ["--queues", "deliver,sweep", "--pool", "threads", "--concurrency", "4", "--hostname", "deliver@%h"]
    beat = ["beat", "--schedule", str(data / "beat-schedule"), "--loglevel", "WARNING"]
    serve = ["granian", *EDGE, "--host", HOST, "--port", str(port)]
    # A process that dies takes its own requests with it; the other one answers while it is started again.
    serve.append("--respawn-failed-workers")
    # Requests that wait (`Prefer: wait`) would hold the end of the server up to a minute.
    size = ["--workers", "2", "--workers-kill-timeout", "2"]
    return [
        Program("classify", [*WORKER, *classify], environment, log("classify")),
        Api("api", [*serve, *size, "--factory", "api.edge:create_edge"], environment, log("api"), metrics_folder(data)),
        Program("deliver", [*WORKER, *deliver], environment, log("deliver")),
        Program("beat", [*CELERY, *beat], environment, log("beat")),
    ]
