"""moto's S3, as a process that the tests own."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from standalone.process import Service
from standalone.services import HOST, free_port


class MotoS3(Service):
    """moto's S3 over real HTTP, as a process of its own; its objects live in memory and die with it."""

    access_key = "test-access-key"
    secret_key = "test-secret-key"
    bucket = "thoraq-test"

    def __init__(self, log: Path) -> None:
        super().__init__("moto", log)
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        """host:port, as the MinIO client takes it."""
        return f"{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "--host", HOST, "--port", str(self.port)]

    def ready(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True
