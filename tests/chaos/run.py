"""One run: the system, its clients, its receivers, its faults; and then the count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import sqlalchemy as sa

from shared.db.tables import Tenant
from shared.doorbell import QUEUES
from standalone.process import ROOT
from standalone.samples import read_samples
from tests.chaos.clients import Clients
from tests.chaos.containers import Containers
from tests.chaos.count import Findings, Identity, Known, Rows, examine, known_of, recoveries
from tests.chaos.faults import Breaker
from tests.chaos.plan import Ask, asks_of, draw, plan
from tests.chaos.proxy import Proxy
from tests.chaos.receiver import Receiver
from tests.chaos.report import Settled, Verdict, tabulate
from tests.chaos.schedule import CONTAINER_KINDS, KINDS, schedule
from tests.chaos.settings import SHIPPED, Pace, stand_in
from tests.chaos.small_disk import SmallDisk
from tests.chaos.system import System
from tests.chaos.target import Target
from tests.compose.engine import running_engine

#: Every job is terminal so many seconds after the last fault; a job's rows are counted a little later.
SETTLE_SECONDS = 75.0
MARGIN_SECONDS = 15.0
#: A worker takes up the doorbell so many seconds after Redis is back.
HEARING_SECONDS = 10.0
#: What a killed worker held has ended so many seconds later.
RECOVERY_SECONDS = 60.0
#: Patience for a sample's answer, while all is well.
ANSWER_SECONDS = 180.0
#: For PostgreSQL: an empty cluster is 40 MB, and each job some 5 kB with its indexes and its share of the log.
DISK_MEGABYTES = 256
#: The container's server keeps more of its log, as it comes.
CONTAINER_MEGABYTES = 512
ENDPOINTS = ("steady", "flaky")
OPEN_JOBS = sa.text("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
OPEN_DELIVERIES = sa.text("SELECT count(*) FROM deliveries WHERE state = 'pending'")


@dataclass(frozen=True)
class Options:
    """A run: `jobs` jobs over so many `minutes` of faults; `real`: with the real models, and the samples;
    `compose`: of docker-compose.yml's containers."""

    seed: int
    jobs: int
    minutes: float
    pace: Pace = SHIPPED
    real: bool = False
    compose: bool = False


def run(options: Options, data: Path, say: Callable[[str], None]) -> Verdict:
    """Starts everything on the folder `data`, breaks it by the seed, counts, and stops everything.

    Call it in the main thread: the processes end with the thread that starts them.
    """
    faults = schedule(options.seed, options.minutes, options.pace, CONTAINER_KINDS if options.compose else KINDS)
    asks = asks_of(read_samples(ROOT / "samples")) if options.real else draw(data / "pictures", options.jobs)
    planned = plan(options.seed, options.jobs, options.minutes, asks)
    requests = f"{options.jobs} jobs in {len(planned)} requests"
    say(f"seed {options.seed}: {len(faults)} faults in {options.minutes:g} minutes, {requests}")
    for fault in faults:
        say(f"  {fault.at:7.2f} s  {fault.name}, {fault.seconds:g} s")
    with ExitStack() as stays:
        settings = options.pace.settings | ({} if options.real else stand_in(_rate(options)))
        started = _containers if options.compose else _processes
        system, disk = stays.enter_context(started(options.pace, data, settings))
        receivers = [stays.enter_context(Receiver(name)) for name in ENDPOINTS]
        ways = [stays.enter_context(Proxy(each.name, each.port, system.callback_host)) for each in receivers]
        lines = {**system.lines, "receiver": ways[1]}
        for receiver, way in zip(receivers, ways, strict=True):
            _subscribe(system, receiver, way)
        if options.real:
            _keep_as_sent(system)
        known = _answers(system, asks) if options.real else known_of(asks)
        say(f"the answers to {len(known)} studies are known; it begins")
        clients = Clients(system.url, system.key, planned)
        breaker = Breaker(system, lines, disk, receivers[1], say)
        stays.callback(clients.give_up)
        clients.start()
        breaker.play(faults, options.minutes * 60)
        settled = _settle(system.database(), clients, breaker, say)
        clients.give_up()
        rows = Rows.read(system.database())
        findings = examine(clients.fates, rows, known, receivers)
        recovered = recoveries(breaker.strikes, rows, receivers[1].name)
        extra, notes = _extras(system, breaker, findings, settled)
        notes += _late(recovered)
        title = f"chaos, seed {options.seed}"
        table = tabulate(title, clients.fates, rows, findings, receivers, settled, recovered, extra)
        return Verdict(table, findings.all + notes, [f"{job.id}: {job.error}" for job in rows.jobs if job.error])


@contextmanager
def _processes(pace: Pace, data: Path, settings: Mapping[str, str]) -> Iterator[tuple[Target, SmallDisk]]:
    disk = SmallDisk(data / "disk", DISK_MEGABYTES)
    with disk, System(data, settings, disk=disk.folder, classifiers=pace.classifiers) as system:
        yield system, disk


@contextmanager
def _containers(pace: Pace, data: Path, settings: Mapping[str, str]) -> Iterator[tuple[Target, SmallDisk]]:
    with running_engine() as engine, Containers(engine, data / "chaos", settings, pace, CONTAINER_MEGABYTES) as system:
        yield system, system.disk


def _rate(options: Options) -> float:
    """Images a second of one worker: all of them together can do twice what comes in, so that jobs are lost sight of
    while they run, and what waited through a fault is done soon after it."""
    return max(4.0, 2 * options.jobs / (options.minutes * 60) / options.pace.workers)


def _late(recovered: Mapping[str, float]) -> list[str]:
    slow = {name: seconds for name, seconds in recovered.items() if name.startswith("SIGKILL classify")}
    return [f"{name}: recovered after {s:.1f} s" for name, s in slow.items() if s > RECOVERY_SECONDS]


def _subscribe(system: Target, receiver: Receiver, way: Proxy) -> None:
    with system.client() as client:
        endpoint = client.create_endpoint(f"http://{way.host}:{way.port}/thoraq", ["*"], receiver.name)
    receiver.secret = endpoint.secret or ""


def _keep_as_sent(system: Target) -> None:
    """What is counted is told apart by the files' SHA-256, and a DICOM file that is de-identified has another."""
    with system.database().begin() as connection:
        connection.execute(sa.update(Tenant).values(keep_identity=True))


def _answers(system: Target, asks: Sequence[Ask]) -> dict[Identity, Known]:
    """The real models' answers to every sample, while all is well."""
    with system.client() as client:
        sent = [client.submit(ask.files, classifier=ask.classifier, modality=ask.modality) for ask in asks]
        results = [client.wait(job, ANSWER_SECONDS).answer() for job in sent]
    return {
        ask.identity: Known({result.prediction}, result.probabilities)
        for ask, result in zip(asks, results, strict=True)
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


def _extras(system: Target, breaker: Breaker, findings: Findings, settled: Settled) -> tuple[dict[str, str], list[str]]:
    """Further rows of the table, and further violations."""
    complaint = system.doctor()
    violations = [f"doctor: {complaint}"] if complaint else []
    if settled.jobs is None or settled.jobs > SETTLE_SECONDS:
        violations.append(f"not every job was terminal {SETTLE_SECONDS:.0f} s after the last fault")
    undelivered = ", ".join(f"{name} {len(texts)}" for name, texts in findings.undelivered.items())
    logs = [system.log_of(name) for name in system.children if "classify" in name]
    return {
        "undelivered by endpoint": undelivered,
        "late commits that changed nothing": str(sum(log.count('"lease_lost"') for log in logs)),
        "ended by themselves": _counted(breaker.fell),
        "did not stop when asked": _counted(breaker.stubborn),
        "doorbells left lying": _doorbells(system),
        "thoraq-admin doctor": "complains" if complaint else "content",
    }, violations


def _counted(names: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(names.items())) or "none"


def _doorbells(system: Target) -> str:
    """Messages that nobody takes although there is nothing else to do: a consumer that went deaf leaves them lying."""
    until = time.monotonic() + HEARING_SECONDS
    with redis.Redis.from_url(system.redis_url, socket_timeout=5) as connection:
        while True:
            left = {queue: length for queue in QUEUES if (length := connection.llen(queue))}
            if not left or time.monotonic() > until:
                return _counted(left)
            time.sleep(0.5)
