"""A container engine of our own: dockerd in a folder, started when the tests need it and ended by its process id."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOCKER, DOCKERD = "/usr/bin/docker", "/usr/sbin/dockerd"
#: Debian's docker-compose, whatever other one comes first on PATH.
COMPOSE = "/usr/bin/docker-compose"


class NoEngine(Exception):
    """No container engine runs on this machine: a package is missing, or the kernel refuses what dockerd asks of it."""


def cache_folder() -> Path:
    """Where images stay between runs: $XDG_CACHE_HOME/thoraq/compose-tests, outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thoraq" / "compose-tests"


@contextmanager
def running_engine() -> Iterator[Engine]:
    """The one that has the images, as long as it is wanted; NoEngine where none starts."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    # Two engines on one folder of images would end each other.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = Engine(cache / "docker")
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()


class Engine:
    """dockerd with its images and volumes in `data`, and its sockets in a folder that ends with it."""

    def __init__(self, data: Path) -> None:
        self._data = data
        # A socket's path may have 107 characters; a checkout's may be longer.
        self._run = Path(tempfile.mkdtemp(prefix="thoraq-engine-"))
        self._socket = self._run / "docker.sock"
        self._log = self._run / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which docker and docker-compose talk to this engine, with the classic builder."""
        # COMPOSE_PROFILES and DOCKER_CONTEXT of the person who runs the tests would change what is tested.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_"))}
        # BuildKit asks a registry about every FROM, even about an image that is there.
        return kept | {"DOCKER_HOST": f"unix://{self._socket}", "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}

    def start(self) -> None:
        """Start dockerd and return when it answers; NoEngine, with the end of its log, when it does not."""
        if missing := [path for path in (DOCKER, DOCKERD, COMPOSE) if not Path(path).exists()]:
            raise NoEngine(f"missing: {', '.join(missing)}: apt-get install docker.io docker-compose (as root)")
        self._data.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    DOCKERD,
                    *("--data-root", self._data, "--exec-root", self._run / "exec"),
                    *("--pidfile", self._run / "dockerd.pid", "--host", f"unix://{self._socket}"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the tests, which end the engine in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                end = self._log.read_text(encoding="utf-8", errors="replace")[-1500:]
                self.stop()
                raise NoEngine(f"dockerd does not start on this kernel; its log ends: {end}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        asked = subprocess.run([DOCKER, "info"], env=self.environment, capture_output=True, check=False)
        return asked.returncode == 0

    def stop(self) -> None:
        """End dockerd; containers that still run are stopped by it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(90)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # dockerd leaves the name of its own network namespace mounted.
        subprocess.run(["umount", self._run / "exec" / "netns" / "default"], capture_output=True, check=False)
        shutil.rmtree(self._run, ignore_errors=True)

    def docker(self, *arguments: str | Path, check: bool = True, timeout: float = 300) -> str:
        """What `docker ARGUMENTS` prints; CalledProcessError, with its standard error as a note, when it fails."""
        return run([DOCKER, *arguments], self.environment, check=check, timeout=timeout)


def run(
    command: list[str | Path],
    environment: dict[str, str],
    *,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 300,
) -> str:
    """The standard output of a command; CalledProcessError, with its standard error as a note, when it fails."""
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout
    )
    if check and done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stdout[-2000:] + done.stderr[-4000:])
        raise error
    return done.stdout
