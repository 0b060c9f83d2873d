"""The process that gets nowhere ends, whatever holds it; the one that gets on does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import EVENT_SECONDS

ROOT = Path(__file__).parents[3]
PROGRAM = """
import ctypes, threading, time
from worker.watchdog import Watchdog

progress = time.monotonic()
Watchdog({seconds}, lambda: progress).start()
{work}
print("done", flush=True)
"""
# PyDLL keeps the interpreter's lock: no other thread of Python moves meanwhile.
HANGS = {"asleep": "time.sleep(600)", "with the interpreter's lock": "ctypes.PyDLL(None).sleep(600)"}
WORKS = "for _ in range(30):\n    time.sleep(0.1)\n    progress = time.monotonic()"


def run(work: str, seconds: float) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(seconds=seconds, work=work)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=EVENT_SECONDS, check=False
    )


@pytest.mark.parametrize("work", HANGS.values(), ids=HANGS)
def test_a_process_that_hangs_ends_and_says_where(work: str) -> None:
    ended = run(work, seconds=1)
    assert (ended.returncode, ended.stdout.replace("done", "")) == (1, ended.stdout)
    assert 'File "<string>", line' in ended.stderr


def test_a_process_that_gets_on_is_left_alone() -> None:
    ended = run(WORKS, seconds=1)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
