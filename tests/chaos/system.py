"""The system under test: every process that a deployment has, a stand-in for the model, and a proxy before each engine.

clients -> api (proxy) -> API
API, workers, beat -> postgres, redis, store (proxies) -> PostgreSQL, Redis, an S3 server
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from client import Client
from shared.config import parse
from shared.storage import Storage, open_storage
from standalone.process import ROOT, Service
from standalone.programs import WORKER, Program
from standalone.services import HOST, Postgres, Redis, free_port
from standalone.stack import Stack
from tests.chaos.proxy import Proxy
from tests.support.servers.s3 import MotoS3

#: Without fsync: processes are killed, not the machine. And little on disk, which may be a small one.
POSTGRES = {"fsync": "off", "min_wal_size": "32MB", "max_wal_size": "64MB"}


class System:
    """Use it with `with`, in a thread that outlives it: the processes end with the thread that started them.

    `settings` are THORAQ_*. `children` are the processes by name, the engines `postgres`, `redis` and `store` too;
    `classifiers` are the names of the classify workers. PostgreSQL's data are on `disk`, if that is given.
    """

    callback_host = HOST

    def __init__(
        self,
        data: Path,
        settings: Mapping[str, str],
        *,
        disk: Path | None = None,
        classifiers: Sequence[str] = ("classify",),
    ) -> None:
        logs = data / "logs"
        folder = (disk or data) / "postgres"
        self.postgres = Postgres(folder, secrets.token_hex(16), log=logs / "postgres.log", options=POSTGRES)
        self.redis = Redis(data / "redis", secrets.token_hex(16), log=logs / "redis.log")
        self.store = MotoS3(logs / "store.log")
        ports = {"postgres": self.postgres.port, "redis": self.redis.port, "store": self.store.port}
        self.proxies = {name: Proxy(name, port) for name, port in ports.items()}
        self.stack = Stack(data, port=free_port(), environ=self._environ(settings))
        self.children: dict[str, Service] = {"postgres": self.postgres, "redis": self.redis, "store": self.store}
        self._classifiers = classifiers
        self._stays = ExitStack()
        self._others: list[Service] = []

    def _environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
        return own | {
            "THORAQ_DATABASE_URL": self._by_proxy("postgres", self.postgres.url, self.postgres.port),
            "THORAQ_REDIS_URL": self._by_proxy("redis", self.redis.url, self.redis.port),
            "THORAQ_STORAGE": "minio",
            "THORAQ_MINIO_ENDPOINT": f"{HOST}:{self.proxies['store'].port}",
            "THORAQ_MINIO_ACCESS_KEY": self.store.access_key,
            "THORAQ_MINIO_SECRET_KEY": self.store.secret_key,
            "THORAQ_MINIO_BUCKET": self.store.bucket,
            "THORAQ_MINIO_SECURE": "false",
            **settings,
        }

    def _by_proxy(self, name: str, url: str, port: int) -> str:
        return url.replace(f"{HOST}:{port}", f"{HOST}:{self.proxies[name].port}")

    def __enter__(self) -> Self:
        with ExitStack() as stays:
            for name, engine in self.children.items():
                stays.enter_context(self.proxies[name])
                engine.start()
                stays.callback(engine.stop)
            for engine in self.children.values():
                engine.wait_ready()
            self.stack = stays.enter_context(self.stack)
            self.children |= self.stack.children
            self.proxies["api"] = stays.enter_context(Proxy("api", int(self.stack.url.rpartition(":")[2])))
            for name in self._classifiers[1:]:
                self.children[name] = self._worker(name, {})
                self.children[name].start()
                stays.callback(self.children[name].kill)
            self._stays = stays.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stays.close()

    @property
    def url(self) -> str:
        """Where clients reach the API: at its proxy."""
        return f"http://{HOST}:{self.proxies['api'].port}"

    @property
    def key(self) -> str:
        """The first tenant's API key."""
        return self.stack.key

    @property
    def lines(self) -> Mapping[str, Proxy]:
        """The proxies."""
        return self.proxies

    @property
    def redis_url(self) -> str:
        """A way around the proxy."""
        return self.redis.url

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the processes."""
        return self.stack.environ

    def client(self) -> Client:
        """A client with the first key."""
        return Client(self.url, self.key)

    def database(self) -> sa.Engine:
        """A way around the proxy. No pool: a connection of before the last crash is worth nothing."""
        return sa.create_engine(self.postgres.url, poolclass=NullPool, connect_args={"connect_timeout": 2})

    def worker_pattern(self, name: str) -> str:
        """How a classify worker is called in the database; every worker for another child."""
        return f"{name}@%" if name in self._classifiers else "%"

    def log_of(self, name: str) -> str:
        """What it has written to its log."""
        return self.children[name].log.read_text(encoding="utf-8", errors="replace")

    def doctor(self) -> str:
        """What `thoraq-admin doctor` complains of."""
        command = [sys.executable, "-m", "admin", "doctor"]
        done = subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr if done.returncode else ""

    def storage(self) -> Storage:
        """A way around the proxy to the objects."""
        return open_storage(parse(self.environ | {"THORAQ_MINIO_ENDPOINT": self.store.endpoint}))

    def worker(self, name: str, **settings: str) -> Service:
        """Another worker for the classify queue, started; it ends with the system, or when everything is mended."""
        worker = self._worker(name, settings)
        worker.start()
        self._stays.callback(worker.kill)
        self._others.append(worker)
        return worker

    def _worker(self, name: str, settings: Mapping[str, str]) -> Service:
        arguments = ["--queues", "classify", "--pool", "solo", "--concurrency", "1", "--hostname", f"{name}@%h"]
        log = self.stack.folder.logs / f"{name}.log"
        return Program(name, [*WORKER, *arguments], {**self.environ, **settings}, log)

    def mend(self) -> None:
        """Everything up and every proxy open, whatever was done before; no other workers."""
        while self._others:
            self._others.pop().kill()
        for proxy in self.proxies.values():
            proxy.mend()
        for child in self.children.values():
            child.start()
        for name in ("postgres", "redis", "store"):
            self.children[name].wait_ready()
        self.stack.wait_ready()
