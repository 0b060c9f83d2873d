"""The API as a server of its own, for tests of what only a real connection and a real process show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from standalone.programs import EDGE, Program
from standalone.services import HOST, free_port


class Server(Program):
    """The API alone, as production starts it, but with one process, so that there is one memory to look at."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.url = f"http://{HOST}:{free_port()}"
        bind = ["--host", HOST, "--port", self.url.rpartition(":")[2]]
        arguments = ["granian", *EDGE, *bind, "--workers", "1", "--factory", "api.edge:create_edge"]
        super().__init__(
            "api", arguments, {"THORAQ_API_THREADS": "4", "THORAQ_MAX_WAIT_SECONDS": "3600", **environment}, log
        )

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.TransportError:
            return False

    def memory(self) -> int:
        """Resident bytes of the server's processes."""
        main = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))


@contextmanager
def peak_memory(server: Server) -> Iterator[list[int]]:
    """A list that grows by one sample of the server's memory after the other."""
    samples, done = [server.memory()], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            samples.append(server.memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
