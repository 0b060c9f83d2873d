"""S3 servers, as processes that the tests own: moto's, and SeaweedFS's."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import httpx

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


class SeaweedFs(Service):
    """SeaweedFS's S3: master, volume server, filer and S3 in one process; its objects live in `folder`."""

    access_key = "test-access-key"
    secret_key = "test-secret-key"
    bucket = "thoraq-test"

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__("seaweedfs", log)
        self._folder = folder
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        """host:port, as the MinIO client takes it."""
        return f"{HOST}:{self.port}"

    def command(self) -> list[str]:
        # Each part's port for gRPC is its own and 10,000 by default, which may be beyond the last port.
        parts = ("master.port", "volume.port", "filer.port")
        grpc = ("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")
        ports = [f"-{name}={free_port()}" for name in (*parts, *grpc)]
        size = ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
        unused = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        weed = str(Path(sys.executable).with_name("weed"))
        where = [f"-dir={self._folder}", f"-ip={HOST}", f"-s3.port={self.port}"]
        return [weed, "-logtostderr", "server", "-s3", *where, *ports, *size, *unused]

    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def ready(self) -> bool:
        """It answers without a signature, if only with a refusal, once its filer and a volume server are there."""
        try:
            return httpx.get(f"http://{self.endpoint}/").status_code == 403
        except httpx.TransportError:
            return False
