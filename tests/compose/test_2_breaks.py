"""Containers are killed, restarted, frozen, cut off and taken down while a batch runs; nothing is lost or doubled.

After each break everything is healthy again within a minute, every job of the batch has one answer, every webhook came
under one id, and the doctor is content. docs/operate/containers.md says what each does to the system.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.compose.deployment import BATCH_SECONDS, OURS, SERVICES, Deployment, on_this_machine
from tests.compose.drill import Drill
from tests.compose.receiver import Receiver

pytestmark = pytest.mark.compose
#: The network that every service is in.
INSIDE = "inside"


@pytest.fixture(scope="module")
def deployment(drill: Drill) -> Deployment:
    return drill.deployment


@pytest.fixture(scope="module")
def receiver(drill: Drill) -> Receiver:
    return drill.receiver


@pytest.fixture
def running_batch(deployment: Deployment, receiver: Receiver, new_xrays: list[Path]) -> Iterator[None]:
    """A batch that runs during the test, and is looked at after it."""
    deployment.wait_healthy()
    with deployment.client() as client:
        batch = client.submit_batch(new_xrays, classifier="binary", modality="xray")
        while not (counts := client.batch(batch.id).counts).succeeded:
            time.sleep(0.2)
        assert counts.done < counts.total, "the batch was over before anything was broken"
        yield
        done = client.wait_batch(batch, on_this_machine(BATCH_SECONDS))
        assert (done.status, done.counts.succeeded) == ("completed", len(new_xrays))
        jobs = [result.job for result in client.batch_results(batch)]
    assert len({job.id for job in jobs}) == len(jobs) == len(new_xrays)
    assert all(job.status == "succeeded" and job.result for job in jobs)
    receiver.wait_for_batch(batch.id, {job.id for job in jobs})
    deployment.doctor()


@pytest.mark.usefixtures("running_batch")
def test_each_main_process_is_killed(deployment: Deployment) -> None:
    for service in SERVICES:
        pid = deployment.main_process(service)
        deployment.kill(service)
        deployment.wait_restarted(service, pid)
    deployment.wait_healthy()
    deployment.wait_ready()


@pytest.mark.usefixtures("running_batch")
def test_all_are_killed_at_once(deployment: Deployment) -> None:
    pids = {service: deployment.main_process(service) for service in SERVICES}
    for service in SERVICES:
        deployment.kill(service)
    for service, pid in pids.items():
        deployment.wait_restarted(service, pid)
    deployment.wait_healthy()
    deployment.wait_ready()


@pytest.mark.usefixtures("running_batch")
def test_each_is_restarted(deployment: Deployment) -> None:
    for service in SERVICES:
        deployment.compose("restart", "--timeout", "30", service)
    deployment.wait_healthy()
    deployment.wait_ready()


def test_every_tmpfs_and_volume_has_its_owner_after_several_starts(deployment: Deployment) -> None:
    """Each container was killed twice and restarted once by now: what it writes to is still its own."""
    deployment.compose("restart", "--timeout", "30")
    for service in SERVICES:
        mounts = deployment.inspect(deployment.container(service))["HostConfig"].get("Tmpfs", {})
        for folder, options in mounts.items():
            if options != "ro":
                deployment.in_container(service, f"touch {folder}/written && rm {folder}/written")
    for service in OURS:
        deployment.in_container(service, "touch /tmp/written && rm /tmp/written")
    deployment.wait_healthy()
    # Its mode is not what the file says: runc gives it that of the folder which it made for the first start.
    assert deployment.in_container("api", "stat -c %u:%g /run/metrics").strip() == "10001:10001"


@pytest.mark.usefixtures("running_batch")
def test_each_is_frozen_for_a_while(deployment: Deployment) -> None:
    for service in SERVICES:
        process = psutil.Process(deployment.main_process(service))
        family = [process, *process.children(recursive=True)]
        for one in family:
            one.send_signal(signal.SIGSTOP)
        time.sleep(3)
        for one in family:
            one.send_signal(signal.SIGCONT)
    deployment.wait_healthy()
    deployment.wait_ready()


@pytest.mark.usefixtures("running_batch")
def test_each_is_cut_off_from_its_network(deployment: Deployment) -> None:
    network = f"{deployment.project}_{INSIDE}"
    for service in SERVICES:
        container = deployment.container(service)
        deployment.engine.docker("network", "disconnect", network, container)
        time.sleep(4)
        deployment.engine.docker("network", "connect", "--alias", service, network, container)
    deployment.wait_healthy()
    deployment.wait_ready()


@pytest.mark.usefixtures("running_batch")
def test_all_is_taken_down_and_put_up_again(deployment: Deployment, receiver: Receiver) -> None:
    receiver.leave()
    deployment.compose("down")
    deployment.compose("up", "-d")
    receiver.join()
    deployment.wait_healthy()
    deployment.wait_ready()


def test_a_service_that_is_frozen_is_found_unhealthy(deployment: Deployment) -> None:
    """A health check that is always true says nothing; beat's and the workers' are asked by hand, without waiting."""
    for service in OURS:
        container = deployment.container(service)
        check = deployment.inspect(container)["Config"]["Healthcheck"]["Test"][1:]
        process = psutil.Process(deployment.main_process(service))
        family = [process, *process.children(recursive=True)]
        for one in family:
            one.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(Exception, match="returned non-zero exit status 1"):
                deployment.engine.docker("exec", container, *check)
        finally:
            for one in family:
                one.send_signal(signal.SIGCONT)
        deployment.engine.docker("exec", container, *check)
