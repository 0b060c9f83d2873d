"""Thoraq as `make run` starts it, its clients, and what the bench reads of it that no client can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import httpx
import psutil
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from bench.lab import TIMEOUT_SECONDS, until
from bench.load import Measured, Round
from client import Batch, BatchOptions, Client, ClientError, Job, archive_of
from standalone.process import ROOT
from standalone.programs import programs
from standalone.services import HOST, free_port
from standalone.stack import Stack

WAIT_SECONDS = 30.0
OPTIONS = BatchOptions(classifier="binary", modality="xray")


class Tenant(NamedTuple):
    """A hospital: its id in the database, and its client."""

    id: str
    client: Client


class Thoraq:
    """A running stack. As a system it is sent one image at a time, each a job of its own."""

    name = "Thoraq, one by one"

    def __init__(self, stack: Stack, closing: ExitStack) -> None:
        self.stack = stack
        self.client = closing.enter_context(stack.client())
        self._closing = closing
        self._metrics_port = 0

    @property
    def bundle(self) -> Path:
        """The model bundle that it serves."""
        return self.stack.settings.model_dir

    def classify(self, file: Path) -> Mapping[str, float]:
        """Submit one X-ray as a job of its own, on the disk before it is accepted; ClientError without an answer."""
        job = self.client.submit([file], classifier="binary", modality="xray", wait=WAIT_SECONDS)
        return probabilities(job if job.done else self.client.wait(job, TIMEOUT_SECONDS))

    def tenant(self, name: str) -> Tenant:
        """Return a hospital of this name, made if it is new, with a new key."""
        command = [sys.executable, "-m", "admin", "keys", "create", "--tenant", name, "--name", "bench", "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self.stack.environ, capture_output=True, text=True, check=True)
        made = json.loads(done.stdout)
        return Tenant(made["tenant"], self._closing.enter_context(Client(self.stack.url, made["key"])))

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """Open a connection to its database, which commits by itself."""
        address = self.stack.environ["THORAQ_DATABASE_URL"].replace("+psycopg", "", 1)
        # A look for what is queued must cost next to nothing: it is made many times a second beside what is measured.
        with psycopg.connect(address, autocommit=True, options="-c enable_seqscan=off") as connection:
            yield connection

    def wait_idle(self) -> float:
        """As `wait_for_none`, on a connection of its own."""
        with self.database() as connection:
            return wait_for_none(connection)

    def count_engine_seconds(self) -> None:
        """Have the worker, from its next start on, serve its metrics. The stack's own programs would share a port."""
        self._metrics_port = free_port()
        environment = {**self.stack.environ, "THORAQ_METRICS_PORT": str(self._metrics_port)}
        data, logs = self.stack.folder.path, self.stack.folder.logs
        self.stack.stop("classify")
        for program in programs(environment, port=self._metrics_port, data=data, logs=logs):
            if program.name == "classify":
                self.stack.children[program.name] = program

    def engine_seconds(self) -> EngineTime:
        """Return what the worker's engine has done since its start."""
        text = httpx.get(f"http://{HOST}:{self._metrics_port}/metrics", timeout=5).raise_for_status().text
        samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
        busy, images = samples["thoraq_batch_infer_seconds_sum"], int(samples["thoraq_batch_images_sum"])
        return EngineTime(time.perf_counter(), busy, images)

    def memory(self, program: str) -> int:
        """Resident bytes of one of its programs and all that it started."""
        parent = psutil.Process(self.stack.children[program].pid)
        return sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True)))


class EngineTime(NamedTuple):
    """When it was read, the seconds that the engine had been busy until then, and how many images it had seen."""

    at: float
    busy: float
    images: int


class Bulk:
    """Thoraq, sent all files as one ZIP. In a tenant of its own: what another one asked does not answer for it."""

    name = "Thoraq, a ZIP"

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, files: Sequence[Path]) -> Measured:
        """From the first byte sent to the last result read; ClientError when an item has no answer."""
        began = time.perf_counter()
        batch = self._client.wait_batch(send(self._client, files), TIMEOUT_SECONDS)
        results = [result.job for result in self._client.batch_results(batch)]
        seconds = time.perf_counter() - began
        if len(results) != len(files):
            raise ClientError(f"{len(results)} results for {len(files)} files")
        return Measured(Round(seconds, len(files)), [probabilities(job) for job in results])


def send(client: Client, files: Sequence[Path]) -> Batch:
    """Send files as one ZIP; returns when the server has all of it."""
    return client.send_batch(archive_of(files)[0], OPTIONS)


def wait_for_none(connection: psycopg.Connection) -> float:
    """Return when no job is queued or running; the database's clock then, in seconds. TimeoutError after minutes."""
    # Two questions, each of which one of the partial indexes answers.
    left = "SELECT EXISTS(SELECT FROM jobs WHERE state = 'queued') OR EXISTS(SELECT FROM jobs WHERE state = 'running')"
    until(lambda: not one(connection, left), "an empty queue")
    return float(one(connection, "SELECT extract(epoch FROM clock_timestamp())"))


def one(connection: psycopg.Connection, statement: LiteralString, values: Mapping[str, Any] | None = None) -> Any:
    """Return the first value of a query's first row; None without one."""
    row = connection.execute(statement, values).fetchone()
    return None if row is None else row[0]


def probabilities(job: Job) -> Mapping[str, float]:
    """Return a job's answer; ClientError when it has none, or when the image was rejected."""
    found = job.answer().probabilities
    if found is None:
        raise ClientError("the image was rejected")
    return found


@contextmanager
def thoraq(folder: Path, **settings: Any) -> Iterator[Thoraq]:
    """Start the whole system on an empty folder, with its default settings but for `settings`; stopped at the end.

    THORAQ_* of the caller are left out: they may name a database in use, and the defaults are what is claimed.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
    environ |= {f"THORAQ_{name.upper()}": str(value) for name, value in settings.items()}
    with Stack(folder, port=free_port(), environ=environ) as stack, ExitStack() as closing:
        yield Thoraq(stack, closing)
