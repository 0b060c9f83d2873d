"""The `thoraq` command as a process of its own, against a scripted server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.servers.scripted import Server
from tests.support.waiting import EVENT_SECONDS

# A shell that starts the tests in the background has them ignore SIGINT, which children inherit.
COMMAND = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from client.cli import app; app()",
]


def environment(server: Server) -> dict[str, str]:
    return os.environ | {"THORAQCTL_URL": server.url, "THORAQCTL_KEY": "tq_test", "TERM": "xterm"}


def into(stdout: int | None, command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command with this file descriptor as its standard output; None: with a standard output that is closed."""
    closed = ["sh", "-c", 'exec "$@" >&-', "sh"] if stdout is None else []
    return subprocess.run(
        [*closed, *command],
        env=env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=EVENT_SECONDS,
        check=False,
    )


def left_pipe() -> int:
    """The writing end of a pipe whose reader has left, as after `| head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def thoraq(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command,
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=EVENT_SECONDS,
        check=False,
    )
