"""The system under test as docker-compose.yml starts it, with a stand-in for the model.

clients -> api (proxy) -> API; deliver -> this machine, at the gateway of its network -> receivers (proxies)
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from client import Client
from standalone.services import HOST
from tests.chaos.proxy import Proxy
from tests.chaos.settings import Pace
from tests.chaos.small_disk import SmallDisk
from tests.compose import images
from tests.compose.deployment import PRIVATE, Deployment
from tests.compose.engine import DOCKER, Engine

#: What the schedule calls them, and compose.
SERVICES = {"postgres": "postgres", "redis": "redis", "store": "minio", "api": "api", "deliver": "deliver"}
SERVICES |= {"beat": "beat", "classify": "worker-cpu"}
READY_SECONDS = 300.0
#: Longer than any service's own: whoever does not stop is killed by the breaker, which says so.
STOP_SECONDS = "120"
#: An address of the block that is kept for documentation: nobody answers.
NOBODY = "192.0.2.1"


class Container:
    """A container that is ended and started by the engine's own commands, after which it stays as it was left."""

    def __init__(self, deployment: Deployment, container: str) -> None:
        self.id = container
        self._deployment, self._pid = deployment, 0

    @property
    def pid(self) -> int:
        """Its main process, on this machine; 0 when it has none."""
        if not self._pid or not Path(f"/proc/{self._pid}").exists():
            self._pid = int(self._deployment.inspect(self.id)["State"]["Pid"])
        return self._pid

    @property
    def running(self) -> bool:
        return self.pid > 0

    def start(self) -> None:
        self._docker("start", self.id)

    def kill(self) -> None:
        self._docker("kill", self.id)

    def ask_to_stop(self) -> None:
        """`docker stop` returns when it has ended: another process waits for that."""
        command = [DOCKER, "stop", "--time", STOP_SECONDS, self.id]
        subprocess.Popen(command, env=self._deployment.environment, stdout=subprocess.DEVNULL)

    def _docker(self, *arguments: str) -> None:
        # It may have ended, or been started again by the engine, a moment ago.
        self._deployment.engine.docker(*arguments, check=False)


class Network:
    """A container's place in the network that all are in."""

    def __init__(self, deployment: Deployment, service: str, container: str) -> None:
        self._docker, self._container, self._service = deployment.engine.docker, container, service
        self._network = f"{deployment.project}_inside"

    def disconnect(self) -> None:
        """Take it out."""
        self._docker("network", "disconnect", self._network, self._container)

    def mend(self) -> None:
        """Put it in, under its name."""
        self._docker("network", "connect", "--alias", self._service, self._network, self._container)


class Containers:
    """Use it with `with`. PostgreSQL's volume is a small disk, `disk`, while it lasts."""

    def __init__(self, engine: Engine, folder: Path, settings: Mapping[str, str], pace: Pace, megabytes: int) -> None:
        folder.mkdir(parents=True)
        self._deployment = Deployment(engine, images.ensure(engine), folder)
        private = {"THORAQ_WEBHOOK_ALLOW_HTTP": "true", "THORAQ_WEBHOOK_ALLOWED_NETWORKS": PRIVATE}
        self._settings, self._classifiers, self._megabytes = {**private, **settings}, pace.classifiers, megabytes
        self.children: dict[str, Container] = {}
        self.lines: dict[str, Proxy | Network] = {}
        self.callback_host = ""
        self._stays = ExitStack()

    def __enter__(self) -> Self:
        made = self._deployment
        with ExitStack() as stays:
            made.shell("make secrets")
            made.settings(**self._settings)
            stays.callback(made.remove)
            # Not all: docker-compose would wait for `migrate` to end.
            made.compose("up", "--no-start", "postgres")
            self.disk = stays.enter_context(SmallDisk(self._volume(), self._megabytes))
            made.compose("up", "-d", "--scale", f"worker-cpu={len(self._classifiers)}", timeout=READY_SECONDS)
            made.wait_ready(READY_SECONDS)
            made.key = made.admin("keys", "create", "--tenant", "General Hospital", "--name", "chaos").strip()
            self._name_parts()
            proxy = stays.enter_context(Proxy("api", made.port))
            self.lines["api"] = proxy
            self.url = f"http://{HOST}:{proxy.port}"
            gateway = "{{(index .IPAM.Config 0).Gateway}}"
            self.callback_host = self._docker("network", "inspect", "--format", gateway, f"{made.project}_outside")
            self._stays = stays.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stays.close()

    def _volume(self) -> Path:
        name = f"{self._deployment.project}_postgres"
        return Path(self._docker("volume", "inspect", "--format", "{{.Mountpoint}}", name))

    def _docker(self, *arguments: str) -> str:
        return self._deployment.engine.docker(*arguments).strip()

    def _name_parts(self) -> None:
        for name, service in SERVICES.items():
            names = self._classifiers if name == "classify" else [name]
            for part, container in zip(names, self._deployment.containers(service), strict=True):
                self.children[part] = Container(self._deployment, container)
                self.lines[part] = Network(self._deployment, service, container)

    @property
    def key(self) -> str:
        """The first tenant's API key."""
        return self._deployment.key

    def client(self) -> Client:
        """A client with the first key."""
        return Client(self.url, self.key)

    def database(self) -> sa.Engine:
        """From this machine, at the address that the container has at the moment."""
        secret = (self._deployment.folder / "secrets" / "postgres_password.txt").read_text()

        def connect() -> Any:
            host = self._address("postgres") or NOBODY
            return psycopg.connect(host=host, user="thoraq", password=secret, dbname="thoraq", connect_timeout=2)

        return sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)

    @property
    def redis_url(self) -> str:
        """From this machine, at the address that the container has at the moment."""
        inside = (self._deployment.folder / "secrets" / "redis_url.txt").read_text().strip()
        return inside.replace("@redis:", f"@{self._address('redis') or NOBODY}:")

    def _address(self, name: str) -> str:
        """Empty while it is in no network."""
        networks = self._deployment.inspect(self.children[name].id)["NetworkSettings"]["Networks"]
        address: str = networks.get(f"{self._deployment.project}_inside", {}).get("IPAddress", "")
        return address

    def worker_pattern(self, name: str) -> str:
        """A worker's name ends with its container's; every worker for another child."""
        return f"%@{self.children[name].id[:12]}" if name in self._classifiers else "%"

    def log_of(self, name: str) -> str:
        """What it has logged."""
        return self._deployment.log(self.children[name].id)

    def doctor(self) -> str:
        """What `thoraq-admin doctor` complains of."""
        try:
            self._deployment.doctor()
        except subprocess.CalledProcessError as error:
            return f"{error.stdout}{error.stderr}"
        return ""
