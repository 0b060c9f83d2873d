"""Breaks what the schedule names, mends it again, and starts what fell over by itself."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import redis
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from standalone.stack import Stack
from tests.chaos.receiver import Receiver
from tests.chaos.schedule import Fault

TICK_SECONDS = 0.05
#: A program that was asked to stop and has not after so long is killed, and named in the report.
STUBBORN_SECONDS = 30.0
#: The pause before a child that fell over by itself is started again.
RESTART_SECONDS = 1.0
#: A fault of what runs jobs waits so long for a job that it can hurt.
PATIENCE_SECONDS = 1.5
#: Where a job can be lost sight of.
RUNS_JOBS = frozenset({"classify", "postgres"})


@dataclass
class Strike:
    """A fault that happened; the ids of the jobs that were running when it began."""

    fault: Fault
    began: datetime
    running: frozenset[str]
    ended: datetime | None = None


class Breaker:
    """Faults on a stack. Use it in the thread that started the stack: the children end with that thread."""

    def __init__(self, stack: Stack, flaky: Receiver, database: sa.Engine, say: Callable[[str], None]) -> None:
        self.strikes: list[Strike] = []
        #: How often each child ended by itself.
        self.fell: Counter[str] = Counter()
        #: Programs that did not stop when asked.
        self.stubborn: Counter[str] = Counter()
        #: time.monotonic() when the last fault was undone.
        self.calm_since = time.monotonic()
        self._stack, self._flaky, self._database, self._say = stack, flaky, database, say
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
        for name, child in self._stack.children.items():
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
        running = self._hurt() if fault.victim in RUNS_JOBS else self._running()
        strike = Strike(fault, datetime.now(UTC), running)
        self.strikes.append(strike)
        self._tell(f"{fault.name} for {fault.seconds} s ({len(strike.running)} jobs are running)")
        if fault.victim == "receiver":
            self._flaky.fail(fault.kind)
        elif fault.kind == "FLUSHALL":
            self._flush()
        else:
            self._signal(fault)
        return strike

    def _signal(self, fault: Fault) -> None:
        child = self._stack.children[fault.victim]
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
        if fault.victim == "receiver":
            self._flaky.recover()
        elif fault.kind == "SIGSTOP":
            self._continue(fault.victim)
        elif fault.victim in self._down and not self._start(fault):
            return False
        strike.ended, self.calm_since = datetime.now(UTC), time.monotonic()
        return True

    def _continue(self, name: str) -> None:
        child = self._stack.children[name]
        if child.running:
            os.kill(child.pid, signal.SIGCONT)

    def _start(self, fault: Fault) -> bool:
        child = self._stack.children[fault.victim]
        if child.running:
            if self._now() < fault.until + STUBBORN_SECONDS:
                return False
            self.stubborn[fault.victim] += 1
            self._tell(f"{fault.victim} has not stopped {STUBBORN_SECONDS:.0f} s after it was asked to")
            child.kill()
        child.start()
        self._down.discard(fault.victim)
        return True

    def _flush(self) -> None:
        with redis.Redis.from_url(self._stack.redis.url, socket_timeout=2) as connection:
            try:
                connection.flushall()
            except redis.RedisError as error:
                self._tell(f"Redis cannot be emptied: {type(error).__name__}")

    def _hurt(self) -> frozenset[str]:
        until = time.monotonic() + PATIENCE_SECONDS
        while not (running := self._running()) and time.monotonic() < until:
            time.sleep(TICK_SECONDS / 5)
        return running

    def _running(self) -> frozenset[str]:
        try:
            with self._database.connect() as connection:
                return frozenset(connection.scalars(sa.text("SELECT id FROM jobs WHERE state = 'running'")))
        except OperationalError:
            return frozenset()  # the database is down itself
