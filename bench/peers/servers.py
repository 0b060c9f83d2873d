"""The peers' processes, started and stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from standalone.process import Service
from standalone.programs import Program
from standalone.services import HOST, free_port

#: The flags of granian that the peers' Flask apps share: one process, a thread for each client.
GRANIAN = ["granian", "--interface", "wsgi", "--host", HOST, "--workers", "1", "--workers-kill-timeout", "2"]


class Web(Program):
    """A server on a free port; `{port}` in its arguments and its environment becomes that."""

    ready_seconds = 600  # the model loads before it serves, on a machine that may do other things, too
    death_signal = "TERM"  # told to end rather than killed when we die: its worker process must go with it

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, *, health: str = "/healthz", **environment: str
    ) -> None:
        self.port = free_port()
        self._health = health
        filled = {key: self._fill(value) for key, value in environment.items()}
        super().__init__(name, [self._fill(part) for part in arguments], {**os.environ, **filled}, log)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}{self._health}", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _fill(self, text: str) -> str:
        return text.replace("{port}", str(self.port))


def flask_server(factory: str, clients: int, log: Path, environment: Mapping[str, str]) -> Web:
    """Return a Flask app under granian."""
    size = ["--port", "{port}", "--blocking-threads", str(clients)]
    return Web(factory, [*GRANIAN, *size, "--factory", factory], log, **environment)


@contextmanager
def running(*services: Service) -> Iterator[None]:
    """Services side by side, ready; stopped at the end."""
    with ExitStack() as stack:
        for service in services:
            stack.callback(service.stop)
            service.start()
        for service in services:
            service.wait_ready()
        yield
