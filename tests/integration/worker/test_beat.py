"""Beat's health check sees beat's heart, and not a file: a beat that is away, frozen or stuck is found out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from standalone.programs import Program
from standalone.services import free_port
from tests.support.waiting import EVENT_SECONDS

ROOT = Path(__file__).parents[3]
# A beat whose loop went round for the last time a while ago.
STUCK = """
import sys, time
from prometheus_client import start_http_server
from worker.beat import TICKED

TICKED.set(time.time() - 61)
start_http_server(int(sys.argv[1]))
print("serves", flush=True)
time.sleep(100)
"""


@pytest.fixture
def environment(settings_env: dict[str, str]) -> dict[str, str]:
    return settings_env | {"THORAQ_METRICS_PORT": str(free_port())}


@pytest.fixture
def beat(environment: dict[str, str], clean_redis: None, tmp_path: Path) -> Iterator[Program]:  # noqa: ARG001
    schedule = ["--schedule", str(tmp_path / "schedule"), "--loglevel", "WARNING"]
    program = Program("beat", ["celery", "-A", "worker.app", "beat", *schedule], environment, tmp_path / "beat.log")
    program.start()
    yield program
    program.kill()


def check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker.beat_check"]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=EVENT_SECONDS
    )  # fmt: skip


def test_a_beat_that_runs_is_healthy_and_one_that_is_frozen_is_not(beat: Program, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + EVENT_SECONDS
    while check(environment).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    healthy = check(environment)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    process = psutil.Process(beat.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        assert check(environment).returncode == 1
    finally:
        process.send_signal(signal.SIGCONT)
    assert check(environment).returncode == 0


def test_a_beat_whose_loop_hangs_is_not_healthy(environment: dict[str, str]) -> None:
    port = environment["THORAQ_METRICS_PORT"]
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, port], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "serves\n"
        said = check(environment)
        stuck.kill()
    assert said.returncode == 1
    assert "beat last looked at its schedule 6" in said.stderr


def test_no_beat_is_not_healthy(environment: dict[str, str]) -> None:
    assert check(environment).returncode == 1
