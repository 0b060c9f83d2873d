"""The `thoraq` command as a process of its own, against a scripted server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.scripted_server import Server

# A shell that starts the tests in the background has them ignore SIGINT, which children inherit.
COMMAND = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from client.cli import app; app()",
]


def environment(server: Server) -> dict[str, str]:
    return os.environ | {"THORAQCTL_URL": server.url, "THORAQCTL_KEY": "tq_test", "TERM": "xterm"}


def thoraq(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment(server), capture_output=True, text=True, timeout=60, check=False)
