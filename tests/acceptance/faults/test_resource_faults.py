"""A picture that kills or hangs codecs, an engine that hangs: each takes down itself, and the rest is answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client, Job
from standalone.programs import programs
from standalone.services import free_port
from standalone.stack import Stack
from tests.support.faults import QUICK
from tests.support.files.poisoned import CRASH, FOLDER, HANG, picture
from tests.support.waiting import EVENT_SECONDS

POISONED = QUICK | {
    "THORAQ_ENGINE": "stand-in",
    "THORAQ_LEASE_SECONDS": "3",
    "THORAQ_PROGRESS_SECONDS": "3",
    "THORAQ_DECODE_SECONDS": "2",
    "THORAQ_MAX_CRASH_ATTEMPTS": "1",
    "PYTHONPATH": str(FOLDER),
}


@pytest.fixture(scope="module")
def poisoned_stack(tmp_path_factory: pytest.TempPathFactory, plain_environ: dict[str, str]) -> Iterator[Stack]:
    """Every process, with codecs that die of the files that are made for it."""
    with Stack(tmp_path_factory.mktemp("poisoned"), port=free_port(), environ=plain_environ | POISONED) as stack:
        yield stack


def supervised(stack: Stack, client: Client, jobs: list[Job], seconds: float = EVENT_SECONDS) -> dict[str, Job]:
    """The jobs once they have ended; meanwhile, what dies is started again, as an operator's machine does."""
    deadline = time.monotonic() + seconds
    while True:
        stack.supervise()
        found = {job.id: client.job(job.id) for job in jobs}
        if all(job.finished_at for job in found.values()):
            return found
        assert time.monotonic() < deadline, {job.id: job.status for job in found.values()}
        time.sleep(0.2)


def kind(job: Job) -> str:
    """What a job failed of."""
    assert job.error is not None
    return job.error.type


def send(client: Client, folder: Path, contents: list[bytes]) -> list[Job]:
    """A job for each picture, all of them queued before a worker takes the first."""
    jobs = []
    for place, content in enumerate(contents):
        path = folder / f"{place}"
        path.write_bytes(content)
        jobs.append(client.submit([path], classifier="binary", modality="xray"))
    return jobs


def test_a_decode_that_dies_in_its_own_process_fails_its_image_alone(poisoned_stack: Stack, tmp_path: Path) -> None:
    worker = poisoned_stack.children["classify"].pid
    with poisoned_stack.client() as client:
        pictures = [picture(".tif", word) for word in (CRASH, HANG)] + [picture(".png", level=n) for n in (9, 99)]
        crash, hang, *good = send(client, tmp_path, pictures)
        found = supervised(poisoned_stack, client, [crash, hang, *good])
    assert [kind(found[job.id]) for job in (crash, hang)] == ["undecodable-image"] * 2
    assert {found[job.id].status for job in good} == {"succeeded"}
    assert poisoned_stack.children["classify"].pid == worker


@pytest.mark.parametrize("word", [CRASH, HANG])
def test_a_png_that_takes_the_worker_with_it_fails_when_it_runs_alone(
    poisoned_stack: Stack, tmp_path: Path, word: bytes
) -> None:
    poisoned_stack.stop("classify")
    worker = poisoned_stack.children["classify"].pid
    with poisoned_stack.client() as client:
        pictures = [picture(".png", level=n) for n in (10, 100, 180)]
        poison, *good = send(client, tmp_path, [picture(".png", word), *pictures])
        poisoned_stack.start("classify")
        found = supervised(poisoned_stack, client, [poison, *good])
    assert {found[job.id].status for job in good} == {"succeeded"}
    assert kind(found[poison.id]) == "undecodable-image"
    assert poisoned_stack.children["classify"].pid != worker


def test_an_engine_that_hangs_is_ended_at_its_deadline_and_its_job_is_quarantined(
    poisoned_stack: Stack, tmp_path: Path
) -> None:
    """Ten seconds for an image, where three are allowed: nothing ever comes of it."""
    poisoned_stack.stop("classify")
    environment = poisoned_stack.environ | {"THORAQ_STAND_IN_RATE": "0.1"}
    hanging, *_ = programs(environment, port=0, data=tmp_path, logs=tmp_path)
    poisoned_stack.children["classify"] = hanging
    with poisoned_stack.client() as client:
        (job,) = send(client, tmp_path, [picture(".png", level=33)])
        hanging.start()
        found = supervised(poisoned_stack, client, [job])
    assert found[job.id].status == "quarantined"
    assert "worker.stuck" in hanging.log.read_text(encoding="utf-8")
