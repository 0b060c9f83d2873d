"""A deployment as an operator has one: a folder with compose file, secrets and .env, and what runs of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from client import Client
from standalone.services import free_port
from tests.compose.engine import COMPOSE, DOCKER, Engine, run
from tests.compose.images import BUILT, ROOT

#: The services that stay up with `--profile cpu`.
SERVICES = ("postgres", "redis", "minio", "api", "worker-cpu", "deliver", "beat")
OURS = ("api", "worker-cpu", "deliver", "beat")
#: Within this time everything is healthy again after a break, as the documentation says, on a machine that has a core
#: to spare; `on_this_machine` says what becomes of it elsewhere.
HEALTHY_SECONDS = 60.0
#: The same for a start from nothing: models are loaded and measured, volumes made.
START_SECONDS = 180.0
#: For a batch to end.
BATCH_SECONDS = 240.0
#: Deployments that run side by side need networks of their own between proxy and API.
EDGES = itertools.count()
#: Docker's own address pools: where the receiver's container lives.
PRIVATE = "172.16.0.0/12,192.168.0.0/16"
#: What docker-compose.yml and the Makefile need beside them.
FILES = ("docker-compose.yml", "Makefile", ".env.example", ".dockerignore", "docker", "locks")
# The documents say `docker compose`; Debian's is a program of its own.
SHIM = f"""#!/bin/sh
[ "$1" = compose ] || exec {DOCKER} "$@"
shift
exec {COMPOSE} "$@"
"""


def on_this_machine(seconds: float) -> float:
    """So many seconds, and so many times more on a machine that is asked just now for several times what it has."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2)


class Deployment:
    """Use it from one thread. `root` is the checkout whose compose file and images it runs."""

    #: What an operator names beside docker-compose.yml.
    files: Sequence[str] = ()

    def __init__(self, engine: Engine, images: Mapping[str, str], folder: Path, root: Path = ROOT) -> None:
        self.engine, self.folder = engine, folder
        self.project = folder.name.replace("-", "").replace("_", "").lower()
        self.port, self.tls_port, self.http_port = free_port(), free_port(), free_port()
        self._edge = f"10.213.{next(EDGES)}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        self._bin = folder / "bin"
        self.copy(root)
        self.use(images)
        self._bin.mkdir(exist_ok=True)
        (self._bin / "docker").write_text(SHIM)
        (self._bin / "docker").chmod(0o755)

    def copy(self, root: Path) -> None:
        """Put another checkout's files into the folder, as `git pull` does."""
        names = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
        for name in [*FILES, *(name for name in names if "*" not in name)]:
            there = self.folder / name
            shutil.rmtree(there, ignore_errors=True)
            if (root / name).is_dir():
                shutil.copytree(root / name, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, there)

    def use(self, images: Mapping[str, str]) -> None:
        """Write the override file: nothing but names of images."""
        ours = {"migrate": "thoraq-api", "api": "thoraq-api", "deliver": "thoraq-api", "beat": "thoraq-api"}
        names = ours | {"worker-cpu": "thoraq-worker-cpu"} | {name: name for name in images if name not in BUILT}
        there = yaml.safe_load((self.folder / "docker-compose.yml").read_text())["services"]
        services = {service: {"image": images[name]} for service, name in names.items() if service in there}
        (self.folder / "images.yml").write_text(yaml.safe_dump({"services": services}))

    @property
    def environment(self) -> dict[str, str]:
        """What the documented lines need to work in this folder with this engine."""
        return self.engine.environment | {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "COMPOSE_FILE": ":".join(("docker-compose.yml", *self.files, "images.yml")),
            "COMPOSE_PROJECT_NAME": self.project,
            "API_BIND": f"127.0.0.1:{self.port}",
            "EDGE_NETWORK": f"{self._edge}.0/28",
            "EDGE_RANGE": f"{self._edge}.0/29",
            "EDGE_PROXY": f"{self._edge}.10",
            "TLS_BIND": f"127.0.0.1:{self.tls_port}",
            "HTTP_BIND": f"127.0.0.1:{self.http_port}",
        }

    def shell(self, script: str, *, timeout: float = 900, **environment: str) -> str:
        """What lines of the documentation print, run in the folder."""
        command: list[str | Path] = ["bash", "-euo", "pipefail", "-c", script]
        return run(command, self.environment | environment, cwd=self.folder, timeout=timeout)

    def settings(self, **values: str) -> None:
        """Add settings to .env, as an operator does."""
        with (self.folder / ".env").open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())

    def compose(self, *arguments: str, timeout: float = 900) -> str:
        """docker-compose, with the CPU's profile."""
        command: list[str | Path] = [COMPOSE, "--profile", "cpu", *arguments]
        return run(command, self.environment, cwd=self.folder, timeout=timeout)

    def admin(self, *arguments: str) -> str:
        """thoraq-admin, as docs/operate/deploy.md runs it."""
        return self.compose("run", "--rm", "migrate", "python", "-m", "admin", *arguments)

    def doctor(self) -> str:
        """What `thoraq-admin doctor` says; it fails when an invariant does not hold."""
        return self.admin("doctor")

    def client(self) -> Client:
        """A client with the deployment's first key."""
        return Client(self.url, self.key)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, those that have ended too."""
        return self._labelled("oneoff=False", f"service={service}")

    def _labelled(self, *labels: str) -> list[str]:
        # From the engine itself: docker-compose takes a second of CPU to say the same.
        ours = [f"project={self.project}", *labels]
        filters = [part for label in ours for part in ("--filter", f"label=com.docker.compose.{label}")]
        return self.engine.docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()

    def container(self, service: str) -> str:
        """The id of a service's only container."""
        (found,) = self.containers(service)
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        """What `docker inspect` says."""
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", container))
        return found[0]

    def state(self, service: str) -> dict[str, Any]:
        """The State of a service's container."""
        found: dict[str, Any] = self.inspect(self.container(service))["State"]
        return found

    def unhealthy(self, services: Iterable[str] = SERVICES) -> list[str]:
        """Which of the services are not healthy, with what they are."""
        found = json.loads(self.engine.docker("inspect", *self._labelled("oneoff=False")))
        states = {one["Config"]["Labels"]["com.docker.compose.service"]: one["State"] for one in found}
        said = {name: _health(states[name]) if name in states else "not there" for name in services}
        return [f"{name}: {status}" for name, status in said.items() if status != "healthy"]

    def wait_healthy(self, seconds: float = HEALTHY_SECONDS, services: Iterable[str] = SERVICES) -> float:
        """The seconds until every service is healthy; AssertionError when that takes longer than it may."""
        services, began = list(services), time.monotonic()
        while wrong := self.unhealthy(services):
            took = time.monotonic() - began
            assert took < on_this_machine(seconds), f"not healthy after {took:.0f} s: {', '.join(wrong)}"
            time.sleep(0.5)
        return time.monotonic() - began

    def wait_ready(self, seconds: float = HEALTHY_SECONDS) -> None:
        """Until /readyz says that all is well."""
        began, said = time.monotonic(), "nothing"
        while time.monotonic() - began < on_this_machine(seconds):
            try:
                answer = httpx.get(f"{self.url}/readyz", timeout=10)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                if answer.is_success:
                    return
                said = answer.text
            time.sleep(0.5)
        raise AssertionError(f"not ready after {time.monotonic() - began:.0f} s: {said}")

    def main_process(self, service: str) -> int:
        """The process id, on this host, of a service's main process; never 0, which would be everybody."""
        pid: int = self.state(service)["Pid"]
        assert pid > 1, f"{service} does not run"
        return pid

    def kill(self, service: str) -> None:
        """SIGKILL its main process: `docker kill` would count as a person's wish, and nothing would start it again."""
        os.kill(self.main_process(service), signal.SIGKILL)

    def wait_restarted(self, service: str, pid: int, seconds: float = HEALTHY_SECONDS) -> None:
        """Until a service that had this main process has another."""
        began = time.monotonic()
        while (state := self.state(service))["Pid"] in {0, pid}:
            late = time.monotonic() - began > on_this_machine(seconds)
            assert not late, f"{service} was not started again: {state['Status']}"
            time.sleep(0.2)

    def in_container(self, service: str, script: str) -> str:
        """What a shell script prints inside a service's container, run as its user."""
        return self.engine.docker("exec", self.container(service), "sh", "-c", script)

    def log(self, container: str, *options: str) -> str:
        """What a container logged, on both of its streams."""
        command = [DOCKER, "logs", *options, container]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def logs(self) -> str:
        """Everything that all containers logged."""
        return self.compose("logs", "--no-color")

    def remove(self) -> None:
        """End it, with its volumes."""
        subprocess.run(
            [COMPOSE, "--profile", "cpu", "down", "--volumes", "--remove-orphans", "--timeout", "5"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            check=False,
            timeout=200,
        )


def _health(state: dict[str, Any]) -> str:
    """`healthy`, `unhealthy` or `starting`; of a container that does not run, that."""
    health: str = (state.get("Health") or {}).get("Status", state["Status"])
    return health if state["Running"] else str(state["Status"])
