"""Another bundle for a running worker: activated, refused, taken back, while studies keep coming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Job, JobState, Result
from shared.inference.bundle import Bundle
from standalone.stack import Stack
from tests.support.bundles.tiny import write_working_bundle
from tests.support.waiting import EVENT_SECONDS

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "samples" / "xray-normal.png"


class Operator:
    """Whoever runs thoraq-admin, and submits a study now and then."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def admin(self, *words: str) -> str:
        """The command's output."""
        command = [sys.executable, "-m", "admin", "models", *words]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.stack.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=EVENT_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds."""
        deadline = time.monotonic() + EVENT_SECONDS
        while not condition():
            self.stack.children["classify"].check()
            assert time.monotonic() < deadline, self.admin("list")
            time.sleep(0.2)

    def serving(self) -> dict[str, list[str]]:
        """Of the bundles that workers serve now, the reasons why they refused others."""
        rows = json.loads(self.admin("list", "--json"))
        return {row["sha256"]: row["refused"] for row in rows if row["workers"]}

    def ask(self) -> str:
        """A study's job, answered; the bundle that its result names."""
        with self.stack.client() as client:
            job = client.submit([PICTURE], classifier="binary", modality="xray", wait=60)
            return client.wait(job).answer().model.sha256


@contextmanager
def traffic(stack: Stack) -> Iterator[list[str]]:
    """Studies one after the other; the ids of their jobs."""
    ids: list[str] = []
    enough = threading.Event()

    def send() -> None:
        with stack.client() as client:
            while not enough.is_set():
                ids.append(client.submit([PICTURE], classifier="ensemble", modality="xray").id)
                enough.wait(0.5)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield ids
    finally:
        enough.set()
        thread.join()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def operator(whole_stack: Stack) -> Iterator[Operator]:
    """The stack's operator, who leaves it with the bundle that it came with."""
    operator = Operator(whole_stack)
    shipped = ROOT / whole_stack.settings.model_dir
    operator.admin("push", str(shipped), "--activate")
    sha256 = Bundle.open(shipped).sha256
    operator.until(lambda: sha256 in operator.serving())
    yield operator
    operator.admin("activate", sha256)
    operator.until(lambda: operator.serving() == {sha256: []})


def results(stack: Stack, ids: list[str]) -> list[str]:
    """The bundles that answered these jobs, in the order of the answers; fails unless each ran once and succeeded."""
    database = Database(stack.settings, pool_size=1)
    with database.transaction() as session:
        attempts = session.execute(
            sa.select(Job.state, Job.error_attempts, Job.crash_attempts, Job.isolated).where(Job.id.in_(ids))
        ).all()
        answers = session.execute(
            sa.select(Result.job_id, Result.bundle_sha256).where(Result.job_id.in_(ids)).order_by(Result.created_at)
        ).all()
    database.close()
    assert {tuple(row) for row in attempts} == {(JobState.SUCCEEDED, 0, 0, False)}
    assert sorted(job_id for job_id, _ in answers) == sorted(ids)
    return [sha256 for _, sha256 in answers]


def test_a_running_worker_changes_its_bundle_and_loses_no_study(operator: Operator, tmp_path: Path) -> None:
    stack = operator.stack
    old, new = Bundle.open(ROOT / stack.settings.model_dir), write_working_bundle(tmp_path / "new")
    pid = stack.children["classify"].pid
    with traffic(stack) as ids:
        operator.until(lambda: len(ids) >= 3)
        operator.admin("push", str(new.path), "--activate")
        operator.until(lambda: new.sha256 in operator.serving())
        before = len(ids)
        operator.until(lambda: len(ids) >= before + 3)
    with stack.client() as client:
        for job_id in ids:
            client.wait(job_id)
        models = {model.sha256: model.serving for model in client.models()}
    answered = results(stack, ids)
    change = answered.index(new.sha256)
    assert set(answered[:change]) == {old.sha256}
    assert set(answered[change:]) == {new.sha256}
    assert (models[old.sha256], models[new.sha256]) == (False, True)
    assert stack.children["classify"].pid == pid


def test_a_worker_that_cannot_load_the_active_bundle_goes_on_and_says_why(operator: Operator, tmp_path: Path) -> None:
    stack = operator.stack
    good, bad = Bundle.open(ROOT / stack.settings.model_dir), write_working_bundle(tmp_path / "bad")
    pid = stack.children["classify"].pid
    operator.admin("push", str(bad.path))
    file = next(iter(bad.card.files))
    with frozen(pid):
        # Activating checks what is stored: the damage comes after it, and before the worker reads.
        operator.admin("activate", "bad")
        (stack.settings.storage_dir / "models" / bad.sha256 / file).write_bytes(b"altered")
    operator.until(lambda: bool(operator.serving().get(good.sha256)))
    (problem,) = operator.serving()[good.sha256]
    assert f"{bad.sha256[:12]}: {file}: its SHA-256" in problem
    assert operator.ask() == good.sha256
    stack.wait_ready()
    assert stack.children["classify"].pid == pid
    operator.admin("push", str(bad.path), "--activate")
    operator.until(lambda: operator.serving() == {bad.sha256: []})
    assert operator.ask() == bad.sha256
