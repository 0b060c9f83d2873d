"""A child process that we own: started, watched, stopped and, when a test wants it, killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from shared.errors import ThoraqError

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.05
LOG_BYTES = 10_000_000


class ServiceFailed(ThoraqError):
    """A child process did not come up, or went away; the message ends with the last lines of its log."""

    type, title = "service-failed", "Service failed"
    remedy = "Read the log file that the message names."


def alive(process: psutil.Process) -> bool:
    """Whether it runs. A zombie does not; an orphan stays one for as long as the container's first process likes."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until none of them runs, at most `timeout` seconds; return those that still do."""
    deadline = time.monotonic() + timeout
    left = [process for process in processes if alive(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = [process for process in left if alive(process)]
    return left


def kill_all(processes: Iterable[psutil.Process], timeout: float = 10) -> None:
    """SIGKILL to those that still run; returns when they are gone."""
    victims = [process for process in processes if alive(process)]
    for process in victims:
        # psutil compares start times, so a process id that was given to another since is left alone.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_gone(victims, timeout)


class Service(ABC):
    """One child process. Subclasses say how it is called and how one sees that it serves.

    Start it in a thread that outlives it: Linux sends the death signal when the *thread* that started the child
    ends. Several are brought up in parallel by calling start() on each and then wait_ready() on each.
    """

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: What the kernel sends the child when we die without having stopped it (a name that setpriv knows).
    death_signal: ClassVar[str] = "KILL"
    #: Generous, for machines that are busy: a child that ends is noticed at once.
    ready_seconds: ClassVar[float] = 180
    stop_seconds: ClassVar[float] = 10

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line, program first."""

    @abstractmethod
    def ready(self) -> bool:
        """Asks once whether it serves; returns soon either way."""

    def prepare(self) -> None:  # noqa: B027 - not every service has something to prepare
        """Make what has to be there before each start."""

    def environment(self) -> Mapping[str, str]:
        """Return the child's environment."""
        return os.environ

    @property
    def pid(self) -> int:
        """The process id; ServiceFailed when it was never started."""
        if self._process is None:
            raise ServiceFailed(f"{self.name} is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives. What it left behind in its process group is killed when it is found dead."""
        if self._process is None:
            return False
        if self._process.returncode is None and self._exited():
            self._reap()
        return self._process.returncode is None

    def start(self) -> None:
        """Start the process and return at once; wait_ready() waits until it serves."""
        if self.running:
            return
        self.prepare()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.old"))
        with self.log.open("ab") as log:
            self._logged = log.tell()
            self._process = self._spawn(log.fileno())

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return when it serves; ServiceFailed with the log's tail when it ends or `timeout` seconds pass before."""
        seconds = self.ready_seconds if timeout is None else timeout
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            if self.ready():
                return
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self.name} was not ready after {seconds:.0f} s{self._tail()}")
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Return when the process runs; ServiceFailed with the end of its log when it has ended."""
        if not self.running:
            raise ServiceFailed(f"{self.name} ended{self._exit_text()}{self._tail()}")

    def stop(self, timeout: float | None = None) -> None:
        """Asks it to end, and kills it when it has not done so after `timeout` seconds."""
        self.ask_to_stop()
        self.wait_stopped(self.stop_seconds if timeout is None else timeout)

    def ask_to_stop(self) -> None:
        """Send the stop signal and return at once."""
        if self.running:
            os.kill(self.pid, self.stop_signal)

    def wait_stopped(self, timeout: float) -> bool:
        """Wait for the end; False when it took SIGKILL."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(POLL_SECONDS)
        return True

    def kill(self) -> None:
        """SIGKILL, to the process first and then to what it started; returns when all are gone."""
        if not self.running:
            return
        children = psutil.Process(self.pid).children(recursive=True)
        os.kill(self.pid, signal.SIGKILL)
        self._reap()
        kill_all(children)

    def restart(self) -> None:
        """Stop, start again on the same address, wait until it serves."""
        self.stop()
        self.start()
        self.wait_ready()

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._death_wish(), *self.command()],
            cwd=ROOT,
            env=dict(self.environment()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches us alone, and we stop the children in the right order.
            start_new_session=True,
        )

    def _death_wish(self) -> list[str]:
        # Python could do this in a preexec_fn, which is not safe in a process with threads.
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", self.death_signal] if setpriv else []

    def _exited(self) -> bool:
        # WNOWAIT leaves the process id taken, so that _reap() cannot signal a stranger's group.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _reap(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(self.pid, signal.SIGKILL)
        if self._process:
            self._process.wait()

    def _exit_text(self) -> str:
        code = self._process.returncode if self._process else None
        return "" if code is None else f" by {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"

    def _tail(self, lines: int = 15) -> str:
        with self.log.open("rb") as log:
            log.seek(self._logged)
            text = log.read().decode(errors="replace").strip()
        return f"; {self.log} ends with:\n" + "\n".join(text.splitlines()[-lines:])
