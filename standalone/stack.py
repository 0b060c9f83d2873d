"""The whole system as child processes: two engines, the API, two workers and beat, on one data folder."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from client import ApiError, Client
from shared.config import Settings, parse
from shared.errors import ConfigError
from standalone.crashes import Crashes
from standalone.folder import ENVIRONMENT, DataFolder
from standalone.process import ROOT, Service, ServiceFailed
from standalone.programs import programs
from standalone.services import HOST, Postgres, Redis, free_port

DEFAULT_PORT = 8080
READY_SECONDS = 600  # at the first start the engines are compared, which a busy machine takes minutes for
#: In this order, each group together, with the seconds that it may take before SIGKILL.
STOP_ORDER = ((("beat", "classify", "deliver"), 8.0), (("api",), 3.0), (("postgres", "redis"), 4.0))
SCOPES = "jobs:write,jobs:read,webhooks:manage,models:read"

Kind = TypeVar("Kind", bound=Service)


def _silent(_text: str) -> None:
    """Nobody wants to know."""


class Stack:
    """Everything on one machine. `with Stack(folder) as stack:` starts it and stops it.

    `port` is the API's; None takes 8080, or a free one when that is taken, and 0 a free one. THORAQ_* in `environ` win
    over what standalone would choose; with a database or Redis given there, ours is not started. `say` gets one short
    line per step. A crashed child stays down unless somebody calls supervise() now and then, in the thread that
    started it.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _silent,
    ) -> None:
        self.folder = DataFolder(data)
        self.children: dict[str, Service] = {}
        self.environ: dict[str, str] = {}
        self._given = dict(os.environ if environ is None else environ)
        self._asked_port = port
        self._port = 0
        self._say = say
        self._crashes: dict[str, Crashes] = {}

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    @property
    def url(self) -> str:
        """Where the API serves."""
        return f"http://{HOST}:{self._port}"

    @property
    def key(self) -> str:
        """The API key that was made at the first start; ConfigError before that."""
        key = self.folder.api_key
        if key is None:
            raise ConfigError("no API key was made yet")
        return key

    @property
    def settings(self) -> Settings:
        """What the children are set to."""
        return parse(self.environ)

    @property
    def operator_environment(self) -> str:
        """What a shell runs before an operator's command, so that it works on this system."""
        file, here = self.folder.path / ENVIRONMENT, Path.cwd()
        return f". {shlex.quote(str(file.relative_to(here) if file.is_relative_to(here) else file))}"

    @property
    def postgres(self) -> Postgres:
        """Our database server."""
        return self._child("postgres", Postgres)

    @property
    def redis(self) -> Redis:
        """Our broker."""
        return self._child("redis", Redis)

    def client(self) -> Client:
        """Return a client with the first key."""
        return Client(self.url, self.key)

    def up(self) -> None:
        """Start everything and return when /readyz answers 200; ServiceFailed or ConfigError otherwise."""
        self.folder.take()
        self._port = self._choose_port()
        self._prepare_engines()
        self.settings  # noqa: B018 - a bad THORAQ_* is reported before anything is started
        self._start_engines()
        self._admin("migrate")
        self._say("the schema is up to date")
        self._start_programs()
        if self.folder.api_key is None:
            self._make_key()
        self.wait_ready()
        self._check_key()
        self._say("everything answers")

    def down(self) -> None:
        """Stop everything, workers first and engines last; what does not listen is killed."""
        killed: list[str] = []
        for names, seconds in STOP_ORDER:
            killed += self._stop_together([self.children[name] for name in names if name in self.children], seconds)
        if self.children:
            (self.folder.path / ENVIRONMENT).unlink(missing_ok=True)  # its addresses are nobody's now
        self.folder.release()
        # Last: whoever cannot print any more has everything stopped nevertheless.
        for name in killed:
            self._say(f"{name} did not stop in time and was killed")

    def start(self, name: str) -> None:
        """Start a child again: postgres, redis, api, classify, deliver or beat."""
        self.children[name].start()

    def stop(self, name: str) -> None:
        """Stop a child as an operator would."""
        self.children[name].stop()

    def kill(self, name: str) -> None:
        """SIGKILL to a child and to its children."""
        self.children[name].kill()

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Return when /readyz answers 200; ServiceFailed when a child ends or the time is over."""
        deadline = time.monotonic() + timeout
        missing = "the API does not answer"
        while time.monotonic() < deadline:
            for child in self.children.values():
                child.check()
            answer = self._ask_ready()
            if answer is not None and answer.status_code == 200:
                return
            missing = f"/readyz answers {answer.text.strip()}" if answer is not None else missing
            time.sleep(0.1)
        raise ServiceFailed(f"not ready after {timeout:.0f} s: {missing}; see the logs in {self.folder.logs}")

    def supervise(self) -> None:
        """Start the children that have crashed again, after a pause that grows while they keep crashing."""
        for name, child in self.children.items():
            if child.running:
                continue
            crashes = self._crashes.setdefault(name, Crashes())
            if crashes.pause is None:
                self._say(f"{name} has crashed; it starts again in {crashes.note():.0f} s (see {child.log})")
            elif crashes.due:
                crashes.pause = None
                child.start()
                self._say(f"{name} is started again")

    def _child(self, name: str, kind: type[Kind]) -> Kind:
        child = self.children.get(name)
        if not isinstance(child, kind):
            raise ConfigError(f"{name} is given from outside; it is not ours")
        return child

    def _choose_port(self) -> int:
        if self._asked_port == 0:
            return free_port()
        wanted = self._asked_port or DEFAULT_PORT
        reason = _why_not(wanted)
        if reason is None:
            return wanted
        if self._asked_port:
            raise ConfigError(f"port {wanted} {reason}, or give another port with --port")
        port = free_port()
        self._say(f"port {wanted} is in use, taking {port}")
        return port

    def _prepare_engines(self) -> None:
        path, logs = self.folder.path, self.folder.logs
        self.children = {}
        chosen = {
            "THORAQ_SECRET_KEY": self.folder.secret("secret_key"),
            "THORAQ_STORAGE": "folder",
            "THORAQ_STORAGE_DIR": str(path / "objects"),
            "THORAQ_MODEL_CACHE": str(path / "models"),
            "THORAQ_SESSION_SECURE": "false",
            "THORAQ_WEBHOOK_ALLOW_HTTP": "true",
            "THORAQ_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
        }
        if not self._uses_given("THORAQ_DATABASE_URL"):
            password = self.folder.secret("postgres_password")
            postgres = Postgres(path / "postgres", password, log=logs / "postgres.log")
            self.children["postgres"] = postgres
            chosen["THORAQ_DATABASE_URL"] = postgres.url
        if not self._uses_given("THORAQ_REDIS_URL"):
            redis = Redis(path / "redis", self.folder.secret("redis_password"), log=logs / "redis.log")
            self.children["redis"] = redis
            chosen["THORAQ_REDIS_URL"] = redis.url
        self.environ = self._given | {name: value for name, value in chosen.items() if not self._is_given(name)}
        ours = {name: value for name, value in self.environ.items() if name.startswith("THORAQ_")}
        self.folder.write_environment(ours)

    def _uses_given(self, name: str) -> bool:
        """Whether the environment names a server, which is then used instead of one of our own; say so."""
        given = self._is_given(name)
        if given:
            self._say(f"{name} is set: that server is used, and none of our own is started")
        return given

    def _is_given(self, name: str) -> bool:
        return name in self._given or f"{name}_FILE" in self._given

    def _start_engines(self) -> None:
        engines = list(self.children.values())
        for engine in engines:
            engine.start()
        for engine in engines:
            engine.wait_ready()
        if engines:
            self._say(f"{' and '.join(engine.name for engine in engines)} serve")

    def _start_programs(self) -> None:
        path, logs = self.folder.path, self.folder.logs
        for program in programs(self.environ, port=self._port, data=path, logs=logs):
            self.children[program.name] = program
            program.start()
        self._say("api, workers and beat are started; the models load")

    def _make_key(self) -> None:
        answer = self._admin("keys", "create", "--tenant", "local", "--name", "first", "--scopes", SCOPES, "--json")
        self.folder.api_key = str(json.loads(answer)["key"])
        self._say("an API key is made")

    def _check_key(self) -> None:
        """Check the kept key: it belongs to a database that may have been replaced since."""
        try:
            with self.client() as client:
                client.models()
        except ApiError as error:
            if error.status != 401:
                raise ServiceFailed(f"the API refuses the first request: {error}") from error
            self._make_key()

    def _admin(self, *arguments: str) -> str:
        """Run thoraq-admin and return what it printed; ServiceFailed with its errors when it fails."""
        command = [sys.executable, "-m", "admin", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False)
        if done.returncode:
            tail = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise ServiceFailed(f"`thoraq-admin {arguments[0]}` failed with exit code {done.returncode}:\n{tail}")
        return done.stdout

    def _ask_ready(self) -> httpx.Response | None:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10)
        except httpx.TransportError:
            return None

    def _stop_together(self, children: Iterable[Service], seconds: float) -> list[str]:
        """Stop them; the names of those that had to be killed."""
        deadline = time.monotonic() + seconds
        children = list(children)
        for child in children:
            child.ask_to_stop()
        return [child.name for child in children if not child.wait_stopped(max(0.0, deadline - time.monotonic()))]


def _why_not(port: int) -> str | None:
    """Why nobody could listen on this port, and what helps; None when one can."""
    with socket.socket() as probe:
        # Connections of an earlier server that linger must not count as a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return "is for root alone: take one from 1024 on"
        except OSError:
            return "is in use: stop what listens there"
        return None
