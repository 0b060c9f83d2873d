"""Breaks what the schedule names, mends it again, and starts what fell over by itself."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from tests.chaos.proxy import Proxy
from tests.chaos.receiver import Receiver
from tests.chaos.schedule import Fault
from tests.chaos.small_disk import SmallDisk
from tests.chaos.target import Target

TICK_SECONDS = 0.05
#: A program that was asked to stop and has not after so long is killed, and named in the report.
STUBBORN_SECONDS = 30.0
#: The pause before a child that fell over by itself is started again.
RESTART_SECONDS = 1.0
#: A fault of what runs jobs waits so long for a job that it can hurt.
PATIENCE_SECONDS = 1.5
RUNNING = sa.text("SELECT id, lease_token FROM jobs WHERE state = 'running' AND worker LIKE :worker")
#: What is done to a proxy, or to a container's network; undone by mending it.
LINES: Mapping[str, Callable[[Any], None]] = {
    "reset": Proxy.reset,
    "half-open": Proxy.half_open,
    "black-hole": Proxy.black_hole,
    "refuse": Proxy.refuse,
    "delay": lambda proxy: proxy.delay(0.3),
    # In the middle of a picture, or of its confirmation.
    "cut": lambda proxy: proxy.cut(4096),
    "disconnect": lambda network: network.disconnect(),
}
RECEIVER = frozenset({"500", "hang", "down", "redirect"})


def runs_jobs(victim: str) -> bool:
    """Whether a job can be lost sight of there."""
    return victim.startswith("classify") or victim == "postgres"


@dataclass(frozen=True)
class Strike:
    """A fault that happened; the jobs that the victim ran when it began, by id, with their lease tokens."""

    fault: Fault
    began: datetime
    running: Mapping[str, str]
    ended: datetime | None = None


class Breaker:
    """Faults on a system. Use it in the thread that started the system: the children end with that thread.

    `flaky` is the receiver that fails, behind the proxy `receiver`.
    """

    def __init__(
        self,
        system: Target,
        lines: Mapping[str, Any],
        disk: SmallDisk,
        flaky: Receiver,
        say: Callable[[str], None],
    ) -> None:
        self.strikes: list[Strike] = []
        #: How often each child ended by itself.
        self.fell: Counter[str] = Counter()
        #: Programs that did not stop when asked.
        self.stubborn: Counter[str] = Counter()
        #: time.monotonic() when the last fault was undone.
        self.calm_since = time.monotonic()
        self._system, self._lines, self._disk, self._flaky, self._say = system, lines, disk, flaky, say
        self._database = system.database()
        self._down: set[str] = set()
        self._fell_at: dict[str, float] = {}
        self._began = 0.0

    def play(self, faults: Sequence[Fault], seconds: float) -> None:
        """Every fault at its time; returns when the time is over and all are undone."""
        self._began = time.monotonic()
        ahead, under_way = list(faults), list[Strike]()
        while ahead or under_way or self._now() < seconds:
            while ahead and ahead[0].at <= self._now():
                under_way.append(self._strike(ahead.pop(0)))
            due = [strike for strike in under_way if strike.fault.until <= self._now()]
            under_way = [strike for strike in under_way if strike not in due or not self._undo(strike)]
            self.tend()
            time.sleep(TICK_SECONDS)

    def tend(self) -> None:
        """Start again what ended and should not have."""
        for name, child in self._system.children.items():
            if name in self._down or child.running:
                continue
            if name not in self._fell_at:
                self.fell[name] += 1
                self._fell_at[name] = time.monotonic()
                self._tell(f"{name} has ended by itself")
            elif time.monotonic() > self._fell_at[name] + RESTART_SECONDS:
                del self._fell_at[name]
                child.start()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, text: str) -> None:
        self._say(f"{self._now():7.1f} s  {text}")

    def _strike(self, fault: Fault) -> Strike:
        strike = Strike(fault, datetime.now(UTC), self._hurt(fault.victim))
        self._tell(f"{fault.name} for {fault.seconds} s ({len(strike.running)} jobs are running)")
        if fault.kind in LINES:
            LINES[fault.kind](self._lines[fault.victim])
        elif fault.kind in RECEIVER:
            self._flaky.fail(fault.kind)
        elif fault.kind == "full":
            self._fill()
        elif fault.kind == "FLUSHALL":
            self._flush()
        else:
            self._signal(fault)
        return strike

    def _signal(self, fault: Fault) -> None:
        child = self._system.children[fault.victim]
        if not child.running:
            return  # it fell over by itself a moment ago
        if fault.kind == "SIGSTOP":
            os.kill(child.pid, signal.SIGSTOP)
            return
        self._down.add(fault.victim)
        if fault.kind == "SIGTERM":
            child.ask_to_stop()
        else:
            child.kill()

    def _undo(self, strike: Strike) -> bool:
        """Mend it; False while the victim has not stopped yet."""
        fault = strike.fault
        if fault.kind in LINES:
            self._lines[fault.victim].mend()
        elif fault.kind in RECEIVER:
            self._flaky.recover()
        elif fault.kind == "full":
            self._free()
        elif fault.kind == "SIGSTOP":
            self._continue(fault.victim)
        elif fault.victim in self._down and not self._start(fault):
            return False
        self.calm_since = time.monotonic()
        self.strikes.append(Strike(fault, strike.began, strike.running, datetime.now(UTC)))
        return True

    def _continue(self, name: str) -> None:
        child = self._system.children[name]
        if child.running:
            os.kill(child.pid, signal.SIGCONT)

    def _start(self, fault: Fault) -> bool:
        child = self._system.children[fault.victim]
        if child.running:
            if self._now() < fault.until + STUBBORN_SECONDS:
                return False
            self.stubborn[fault.victim] += 1
            self._tell(f"{fault.victim} has not stopped {STUBBORN_SECONDS:.0f} s after it was asked to")
            child.kill()
        child.start()
        self._down.discard(fault.victim)
        return True

    def _fill(self) -> None:
        """PostgreSQL's disk; without a disk of our own it is the store that takes nothing."""
        if self._disk.mounted:
            self._disk.fill()
        else:
            self._lines["store"].refuse()

    def _free(self) -> None:
        if self._disk.mounted:
            self._disk.free()
        else:
            self._lines["store"].mend()

    def _flush(self) -> None:
        with redis.Redis.from_url(self._system.redis_url, socket_timeout=2) as connection:
            try:
                connection.flushall()
            except redis.RedisError as error:
                self._tell(f"Redis cannot be emptied: {type(error).__name__}")

    def _hurt(self, victim: str) -> dict[str, str]:
        """What the victim runs; of one that runs jobs, when it does."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (running := self._running(victim)) and runs_jobs(victim) and time.monotonic() < until:
            time.sleep(TICK_SECONDS / 5)
        return running

    def _running(self, victim: str) -> dict[str, str]:
        worker = self._system.worker_pattern(victim)
        try:
            with self._database.connect() as connection:
                return {row.id: row.lease_token for row in connection.execute(RUNNING, {"worker": worker})}
        except OperationalError:
            return {}  # the database is down itself
