"""docs/operate/deploy.md's lines start a system that answers (X-rays, CT, webhooks) as the standalone one does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from standalone.samples import classify, read_samples
from standalone.services import free_port
from standalone.stack import Stack
from tests.compose.deployment import BATCH_SECONDS, START_SECONDS, Deployment, on_this_machine
from tests.compose.images import ROOT
from tests.compose.receiver import Receiver

pytestmark = pytest.mark.compose


def test_all_is_ready(deployment: Deployment) -> None:
    deployment.wait_ready(START_SECONDS)
    assert deployment.key.startswith("tq_")
    assert deployment.inspect(deployment.container("migrate"))["State"]["ExitCode"] == 0


def test_the_page_is_served(deployment: Deployment) -> None:
    assert "Thoraq" in httpx.get(deployment.url, follow_redirects=True).text


def test_a_batch_of_x_rays_and_a_ct_study_are_answered_and_told(
    deployment: Deployment, receiver: Receiver, xrays: list[Path]
) -> None:
    with deployment.client() as client:
        batch = client.submit_batch(xrays, classifier="binary", modality="xray")
        study = client.submit([ROOT / "samples" / "ct-slice.dcm"], classifier="binary")
        done = client.wait_batch(batch, on_this_machine(BATCH_SECONDS))
        assert (done.status, done.counts.succeeded) == ("completed", len(xrays))
        assert client.wait(study, on_this_machine(BATCH_SECONDS)).status == "succeeded"
        jobs = {result.job.id for result in client.batch_results(batch)}
    assert len(jobs) == len(xrays)
    receiver.wait_for_batch(batch.id, jobs | {study.id})


@pytest.fixture
def standalone(deployment: Deployment, tmp_path: Path) -> Stack:
    """The standalone system with the engine that the containers' worker chose.

    Each measures which engine is faster, and on a busy machine they may choose differently: int8's probabilities are
    not those of bf16 to two places.
    """
    workers = json.loads(deployment.admin("queue", "--json"))["workers"]
    (engine,) = {worker["engine"] for worker in workers if worker["queue"] == "classify" and worker["takes_work"]}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
    return Stack(tmp_path / "standalone", port=free_port(), environ=environ | {"THORAQ_ENGINE": engine})


def test_the_samples_are_answered_as_by_the_standalone_system(deployment: Deployment, standalone: Stack) -> None:
    samples = read_samples(ROOT / "samples")
    with deployment.client() as client:
        here = classify(client, samples)
    with standalone as stack, stack.client() as client:
        there = classify(client, samples)
    for mine, its in zip(here, there, strict=True):
        assert mine.job.status == its.job.status == "succeeded"
        assert mine.job.result is not None
        assert its.job.result is not None
        assert mine.job.result.prediction == its.job.result.prediction
        assert mine.job.result.probabilities == pytest.approx(its.job.result.probabilities, abs=0.01)


def test_the_doctor_is_content(deployment: Deployment) -> None:
    deployment.doctor()
