"""A siege: a quiet period, each attack by itself, then all together; and what hospital B noticed of it."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
from rich.table import Table

from standalone.process import ROOT
from standalone.stack import Stack
from tests.siege.attacks import ATTACKS, Attack, Target
from tests.siege.hospital import Hospital

KINDS = ("health", "poll", "stat", "routine", "webhook")
#: Of a kind's quiet p99, and in seconds: what B may notice. A batch of others' studies may go before its own.
BOUNDS = {"health": (20.0, 1.0), "poll": (5.0, 1.0), "stat": (3.0, 2.0), "routine": (10.0, 5.0), "webhook": (0.0, 5.0)}
MOST_MEMORY = 3_000_000_000
WEBHOOK_SECONDS = 60.0
SCOPES = "jobs:write,jobs:read,webhooks:manage"


@dataclass(frozen=True)
class Options:
    """How long each period lasts; `alone`: each attack has one by itself before they come together."""

    seed: int
    quiet_seconds: float
    attack_seconds: float
    alone: bool
    #: connections that say nothing, and as many that wait
    crowd: int


@dataclass
class Verdict:
    """What was found: promises that were broken at any speed, and those that have a measure."""

    table: Table
    broken: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


def run(stack: Stack, options: Options, say: Callable[[str], None]) -> Verdict:
    """Besiege a system that is up."""
    table = Table("period", *(f"{kind} p50, p99" for kind in KINDS), title="B's seconds, and of its quiet p99")
    verdict = Verdict(table)
    target = Target(stack.url, _new_key(stack, f"siege-a-{options.seed}"), options.seed, options.crowd)
    attacks = list(ATTACKS)
    random.Random(options.seed).shuffle(attacks)  # noqa: S311 - no secret
    with Hospital(stack.url, _new_key(stack, f"siege-b-{options.seed}")) as hospital, _peak_memory(stack) as memory:
        say("quiet")
        time.sleep(options.quiet_seconds)
        quiet = hospital.take_seconds()
        _note(verdict, "quiet", quiet, quiet)
        for period in [*([attack] for attack in attacks if options.alone), attacks]:
            name = "together" if len(period) > 1 else period[0].__name__.replace("_", " ")
            say(name)
            with _under_way(target, period):
                time.sleep(options.attack_seconds)
            _note(verdict, name, hospital.take_seconds(), quiet)
        hospital.stop()
        _check_ends(hospital, verdict)
    say("peak memory: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sorted(memory.items())))
    verdict.broken += [f"{name} grew to {size} bytes" for name, size in memory.items() if size > MOST_MEMORY]
    return verdict


def _new_key(stack: Stack, tenant: str) -> str:
    words = ["keys", "create", "--tenant", tenant, "--name", "siege", "--scopes", SCOPES, "--json"]
    made = subprocess.run(
        [sys.executable, "-m", "admin", *words], cwd=ROOT, env=stack.environ, capture_output=True, text=True, check=True
    )
    return str(json.loads(made.stdout)["key"])


@contextmanager
def _under_way(target: Target, attacks: Sequence[Attack]) -> Iterator[None]:
    over = threading.Event()
    threads = [threading.Thread(target=attack, args=(target, over), daemon=True) for attack in attacks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def _peak_memory(stack: Stack) -> Iterator[dict[str, int]]:
    """Resident bytes of each child's largest process, at their most."""
    peak: dict[str, int] = {}
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            for name, child in stack.children.items():
                try:
                    main = psutil.Process(child.pid)
                    sizes = [process.memory_info().rss for process in (main, *main.children(recursive=True))]
                except psutil.NoSuchProcess:
                    continue
                peak[name] = max(peak.get(name, 0), *sizes)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _note(verdict: Verdict, name: str, seconds: dict[str, list[float]], quiet: dict[str, list[float]]) -> None:
    """A row of the table, and what of it is beyond the bounds."""
    cells = []
    for kind in KINDS:
        if not seconds.get(kind):
            cells.append("none")
            continue
        usual, worst = _p99(quiet.get(kind, [])), _p99(seconds[kind])
        ratio = f" ({worst / usual:.1f})" if usual else ""
        cells.append(f"{statistics.median(seconds[kind]):.3f} {worst:.3f}{ratio}")
        times, most = BOUNDS[kind]
        if worst > max(times * usual, most):
            verdict.slow.append(f"{name}: {kind} took {worst:.2f} s, {usual:.2f} s when it was quiet")
    verdict.table.add_row(name, *cells)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] if values else 0.0


def _check_ends(hospital: Hospital, verdict: Verdict) -> None:
    """Nothing failed, nobody waited for a lease, and every webhook came."""
    verdict.broken += hospital.failures
    for job in hospital.finished.values():
        if job["status"] != "succeeded" or job["attempts"]:
            verdict.broken.append(f"{job['id']} {job['status']} after {job['attempts']} attempts")
    until = time.monotonic() + WEBHOOK_SECONDS
    while (missing := set(hospital.finished) - hospital.told) and time.monotonic() < until:
        time.sleep(0.1)
    verdict.broken += [f"nobody was told of {job_id}" for job_id in sorted(missing)]
    if not hospital.finished:
        verdict.broken.append("no job of B ended")
