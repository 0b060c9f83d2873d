"""What containers are from inside and to Docker: hardened, small, within their memory, stopped in order, several."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from tests.compose.deployment import BATCH_SECONDS, OURS, SERVICES, START_SECONDS, Deployment, on_this_machine
from tests.support.waiting import EVENT_SECONDS

pytestmark = pytest.mark.compose
USERS = {"api": 10001, "worker-cpu": 10001, "deliver": 10001, "beat": 10001}
#: Megabytes, as measured, and a tenth.
SIZES = {"thoraq-api": 890, "thoraq-worker-cpu": 2690}
STATUS = "cat /proc/1/status"
REACHES_OUT = """
import socket
for address in (("1.1.1.1", 53), ("8.8.8.8", 443)):
    try:
        socket.create_connection(address, 2).close()
    except OSError:
        continue
    raise SystemExit("reached " + address[0])
"""


def status(deployment: Deployment, service: str) -> dict[str, str]:
    lines = deployment.in_container(service, STATUS).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("service", SERVICES)
def test_the_main_process_may_do_nothing_more_than_it_needs(deployment: Deployment, service: str) -> None:
    found = status(deployment, service)
    assert found["NoNewPrivs"] == "1"
    assert int(found["CapEff"], 16) == 0
    uids = {int(uid) for uid in found["Uid"].split()}
    if service in USERS:
        assert uids == {USERS[service]}
        assert int(found["CapBnd"], 16) == 0
    elif service != "minio":  # its image knows no user; it is root without any capability
        assert 0 not in uids


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_but_scratch_space_and_volumes_can_be_written(deployment: Deployment, service: str) -> None:
    script = "for f in / /etc /usr/bin /app /opt; do [ ! -d $f ] || touch $f/x || echo refused; done 2>&1"
    said = deployment.in_container(service, script).splitlines()
    assert said.count("refused") == len(said) / 2 >= 4
    assert all("Read-only file system" in line for line in said if line != "refused"), said


@pytest.mark.parametrize("service", ["worker-cpu", "beat"])
def test_nothing_outside_is_reached_from_inside(deployment: Deployment, service: str) -> None:
    deployment.engine.docker("exec", deployment.container(service), "python", "-c", REACHES_OUT)


def test_no_secret_is_seen_by_anybody_who_may_look(deployment: Deployment) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (deployment.folder / "secrets").iterdir()]
    # The longest word of each is the secret itself: passwords are 64 digits, within addresses too.
    found = {part for text in texts for part in text.replace(":", " ").replace("@", " ").split() if len(part) == 64}
    assert len(found) >= 5
    seen = deployment.logs() + "".join(
        json.dumps(deployment.inspect(deployment.container(service))) for service in (*SERVICES, "migrate")
    )
    for service in SERVICES:
        seen += deployment.in_container(service, "cat /proc/[0-9]*/cmdline /proc/1/environ 2>/dev/null | tr '\\0' ' '")
    assert not [secret[:6] for secret in found if secret in seen]
    assert deployment.key not in seen


@pytest.mark.parametrize("name", SIZES)
def test_images_hold_what_is_run_and_nothing_else(deployment: Deployment, images: dict[str, str], name: str) -> None:
    size = int(deployment.engine.docker("image", "inspect", "--format", "{{.Size}}", images[name]))
    assert size < SIZES[name] * 1_000_000
    look = "for p in gcc cc g++ make git; do command -v $p; done; ls -d /root/.cache /tmp/pip* 2>/dev/null; ls /app"
    held = deployment.engine.docker("run", "--rm", images[name], "sh", "-c", f"{look}; true").split()
    assert sorted(held) == ["admin", "api", "console", "migrations", "models", "shared", "worker"]


def test_a_worker_knows_its_limit(deployment: Deployment) -> None:
    script = "from shared.memory import memory_limit; print(memory_limit())"
    limit = deployment.engine.docker("exec", deployment.container("worker-cpu"), "python", "-c", script)
    assert int(limit) == deployment.inspect(deployment.container("worker-cpu"))["HostConfig"]["Memory"] > 0


def test_a_worker_with_too_little_memory_says_so_in_a_line(deployment: Deployment) -> None:
    """It is not killed while it loads: with 400 MB it ends and /readyz says why, with 700 MB it takes fewer images."""
    container = deployment.container("worker-cpu")
    host = deployment.inspect(container)["HostConfig"]
    try:
        start_with_memory(deployment, container, "400m", "400m")
        wait_logged(deployment, [container], "it needs")
        checks = httpx.get(f"{deployment.url}/readyz").json()["checks"]
        assert "it needs 0.50 GB of memory for one image at a time" in checks["worker:classify"]
        assert "it needs 0.50 GB" in deployment.admin("queue", "--json")
        start_with_memory(deployment, container, "700m", "700m")
        wait_logged(deployment, [container], "engine.smaller_batch")
        deployment.wait_healthy(START_SECONDS, ["worker-cpu"])
        assert not deployment.inspect(container)["State"]["OOMKilled"]
    finally:
        start_with_memory(deployment, container, str(host["Memory"]), str(host["MemoryReservation"]))
    deployment.wait_healthy(START_SECONDS)


def start_with_memory(deployment: Deployment, container: str, limit: str, reservation: str) -> None:
    # The kernel sets no limit below what is used just now.
    deployment.engine.docker("stop", container)
    options = ("--memory", limit, "--memory-swap", limit, "--memory-reservation", reservation)
    deployment.engine.docker("update", *options, container)
    deployment.engine.docker("start", container)


def test_two_workers_share_a_batch_and_a_stop_drains(deployment: Deployment, new_xrays: list[Path]) -> None:
    deployment.compose("up", "-d", "--scale", "worker-cpu=2", "--no-recreate")
    try:
        workers = deployment.containers("worker-cpu")
        assert len(workers) == 2
        wait_logged(deployment, workers, " ready.")
        began = f"{time.time():.0f}"
        with deployment.client() as client:
            batch = client.submit_batch(new_xrays, classifier="ensemble", modality="xray")
            wait_logged(deployment, workers, "jobs.finished", "--since", began)
            deployment.compose("stop", "worker-cpu")
            assert [deployment.inspect(worker)["State"]["ExitCode"] for worker in workers] == [0, 0]
            # Given back, or answered: nothing waits for a lease to run out.
            counts = client.batch(batch.id).counts
            assert counts.running == 0, counts
            assert counts.queued, "the batch was over before it was stopped"
            deployment.compose("up", "-d", "--scale", "worker-cpu=1")
            assert client.wait_batch(batch, on_this_machine(BATCH_SECONDS)).status == "completed"
    finally:
        deployment.compose("up", "-d", "--scale", "worker-cpu=1")
    deployment.wait_healthy(START_SECONDS)


def wait_logged(deployment: Deployment, containers: list[str], event: str, *options: str) -> None:
    """Until each of the containers has logged it."""
    deadline = time.monotonic() + EVENT_SECONDS
    while missing := [one for one in containers if event not in deployment.log(one, *options)]:
        assert time.monotonic() < deadline, deployment.log(missing[0], "--tail", "20")
        time.sleep(0.2)


def test_a_stop_ends_in_order(deployment: Deployment) -> None:
    """And so it does while a worker loads its model, when Celery does not listen yet."""
    deployment.compose("stop", *OURS)
    assert {service: deployment.state(service)["ExitCode"] for service in OURS} == dict.fromkeys(OURS, 0)
    began = f"{time.time():.0f}"
    deployment.compose("start", *OURS)
    worker = deployment.container("worker-cpu")
    wait_logged(deployment, [worker], "worker.memory", "--since", began)
    deployment.compose("stop", "worker-cpu")
    assert deployment.state("worker-cpu")["ExitCode"] == 0
    assert " ready." not in deployment.log(worker, "--since", began)
    deployment.compose("start", "worker-cpu")
    deployment.wait_healthy(START_SECONDS)
