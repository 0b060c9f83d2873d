"""One run: the system, its clients, its receivers, its faults; and then the count."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import redis
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from shared.queue import QUEUES
from standalone.process import ROOT
from standalone.samples import Sample, classify, read_samples
from standalone.services import free_port
from standalone.stack import Stack
from tests.chaos.clients import Clients
from tests.chaos.count import Findings, Identity, Known, Rows, examine, recoveries
from tests.chaos.faults import Breaker
from tests.chaos.plan import asks_of, plan
from tests.chaos.receiver import Receiver
from tests.chaos.report import Settled, Verdict, tabulate
from tests.chaos.schedule import schedule
from tests.chaos.settings import environ

#: Every job is terminal so many seconds after the last fault; a job's rows are counted a little later.
SETTLE_SECONDS = 75.0
MARGIN_SECONDS = 15.0
#: A worker takes up the doorbell so many seconds after Redis is back.
HEARING_SECONDS = 10.0
ENDPOINTS = ("steady", "flaky")
OPEN_JOBS = sa.text("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
OPEN_DELIVERIES = sa.text("SELECT count(*) FROM deliveries WHERE state = 'pending'")


def run(seed: int, jobs: int, minutes: float, data: Path, say: Callable[[str], None]) -> Verdict:
    """Starts everything on the folder `data`, breaks it by the seed, counts, and stops everything.

    Call it in the main thread: the processes end with the thread that starts them.
    """
    samples = read_samples(ROOT / "samples")
    faults, planned = schedule(seed, minutes), plan(seed, jobs, minutes, asks_of(samples))
    say(f"seed {seed}: {len(faults)} faults in {minutes:g} minutes, {jobs} jobs in {len(planned)} requests")
    for fault in faults:
        say(f"  {fault.at:7.2f} s  {fault.name}, {fault.seconds:g} s")
    with ExitStack() as stays:
        stack = stays.enter_context(Stack(data, port=free_port(), environ=environ()))
        receivers = [stays.enter_context(Receiver(name)) for name in ENDPOINTS]
        database = _database(stack)
        _subscribe(stack, receivers)
        known = _known(stack, samples)
        say(f"the answers of {len(known)} samples are known; it begins")
        clients = Clients(stack.url, stack.key, planned)
        breaker = Breaker(stack, receivers[1], database, say)
        stays.callback(clients.give_up)
        clients.start()
        breaker.play(faults, minutes * 60)
        settled = _settle(database, clients, breaker, say)
        clients.give_up()
        rows = Rows.read(database)
        findings = examine(clients.fates, rows, known, receivers)
        recovered = recoveries(breaker.strikes, rows, receivers[1].name)
        extra, notes = _extras(stack, breaker, findings, settled)
        table = tabulate(f"chaos, seed {seed}", clients.fates, rows, findings, receivers, settled, recovered, extra)
        return Verdict(table, findings.all + notes, [str(job.error) for job in rows.jobs if job.error])


def _database(stack: Stack) -> sa.Engine:
    """No pool: a connection of before the last crash is worth nothing."""
    url = stack.settings.database_url.get_secret_value()
    return sa.create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 2})


def _subscribe(stack: Stack, receivers: Sequence[Receiver]) -> None:
    with stack.client() as client:
        for receiver in receivers:
            receiver.secret = client.create_endpoint(receiver.url, ["*"], receiver.name).secret or ""


def _known(stack: Stack, samples: Sequence[Sample]) -> dict[Identity, Known]:
    """The answer to every sample, while all is well."""
    with stack.client() as client:
        results = [answered.job.answer() for answered in classify(client, samples)]
    identities = [ask.identity for ask in asks_of(samples)]
    return {
        identity: Known(result.prediction, result.probabilities)
        for identity, result in zip(identities, results, strict=True)
        if result.prediction is not None and result.probabilities is not None
    }


def _settle(database: sa.Engine, clients: Clients, breaker: Breaker, say: Callable[[str], None]) -> Settled:
    """Waits, within bounds, until all is answered, terminal and delivered."""
    jobs: float | None = None
    while (now := time.monotonic() - breaker.calm_since) < SETTLE_SECONDS + MARGIN_SECONDS:
        breaker.tend()
        open_jobs, open_deliveries = _open(database)
        if jobs is None and not clients.busy and not open_jobs:
            jobs = now
            say(f"every job is terminal {now:.1f} s after the last fault")
        if jobs is not None and not open_deliveries:
            return Settled(jobs, now)
        time.sleep(0.2)
    return Settled(jobs, None)


def _open(database: sa.Engine) -> tuple[int, int]:
    try:
        with database.connect() as connection:
            return connection.scalar(OPEN_JOBS) or 0, connection.scalar(OPEN_DELIVERIES) or 0
    except sa.exc.OperationalError:
        return 1, 1  # it is only just coming up


def _extras(stack: Stack, breaker: Breaker, findings: Findings, settled: Settled) -> tuple[dict[str, str], list[str]]:
    """Further rows of the table, and further violations."""
    doctor = subprocess.run(
        [sys.executable, "-m", "admin", "doctor"],
        cwd=ROOT, env=stack.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    violations = [f"doctor: {doctor.stdout}{doctor.stderr}"] if doctor.returncode else []
    if settled.jobs is None or settled.jobs > SETTLE_SECONDS:
        violations.append(f"not every job was terminal {SETTLE_SECONDS:.0f} s after the last fault")
    undelivered = ", ".join(f"{name} {len(texts)}" for name, texts in findings.undelivered.items())
    late = (stack.folder.logs / "classify.log").read_text(errors="replace").count('"lease_lost"')
    return {
        "undelivered by endpoint": undelivered,
        "late commits that changed nothing": str(late),
        "ended by themselves": _counted(breaker.fell),
        "did not stop when asked": _counted(breaker.stubborn),
        "doorbells left lying": _doorbells(stack),
        "thoraq-admin doctor": "complains" if doctor.returncode else "content",
    }, violations


def _counted(names: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(names.items())) or "none"


def _doorbells(stack: Stack) -> str:
    """Messages that nobody takes although there is nothing else to do: a consumer that went deaf leaves them lying."""
    until = time.monotonic() + HEARING_SECONDS
    with redis.Redis.from_url(stack.redis.url, socket_timeout=5) as connection:
        while True:
            left = {queue: length for queue in QUEUES if (length := connection.llen(queue))}
            if not left or time.monotonic() > until:
                return _counted(left)
            time.sleep(0.5)
