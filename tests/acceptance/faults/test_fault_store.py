"""The object store is down, slow, full, or cuts answers off: what cannot be kept is not accepted, and no job fails."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from shared.config import parse
from shared.db.engine import Database
from shared.keys import Scope
from shared.storage import open_storage
from standalone.process import Service
from standalone.services import free_port
from standalone.stack import Stack
from tests.chaos.pictures import picture
from tests.chaos.small_disk import SmallDisk
from tests.chaos.system import System
from tests.support.api import new_key
from tests.support.faults import QUICK, Hospital, count
from tests.support.servers.api import Server
from tests.support.waiting import until

TRIED = "SELECT count(*) FROM jobs WHERE id = ANY (:ids) AND error_attempts > 0"


def test_the_store_down(system: System, hospital: Hospital) -> None:
    system.stack.stop("classify")
    ids = hospital.ids(6)
    system.proxies["store"].refuse()
    refused = hospital.submit("no-store")
    assert (refused.status_code, refused.json()["type"].rpartition("#")[2]) == (503, "storage-unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert hospital.count("SELECT count(*) FROM jobs WHERE external_id = 'no-store'") == 0
    system.stack.start("classify")
    until(lambda: hospital.count(TRIED, ids=ids))
    system.proxies["store"].mend()
    ids.append(hospital.try_again(lambda: hospital.submit("no-store")).json()["id"])
    hospital.assert_each_answered_once(ids)


def test_the_store_slow(system: System, hospital: Hospital) -> None:
    system.proxies["store"].delay(0.4)
    ids = hospital.ids(4)
    hospital.assert_each_answered_once(ids)
    assert hospital.count(TRIED, ids=ids) == 0


def test_the_store_cuts_objects_off(system: System, hospital: Hospital) -> None:
    system.stack.stop("classify")
    ids = hospital.ids(6)
    system.proxies["store"].cut(4096)  # in the middle of the picture
    system.stack.start("classify")
    until(lambda: hospital.count(TRIED, ids=ids))
    system.proxies["store"].mend()
    hospital.assert_each_answered_once(ids)


def test_the_store_cuts_off_its_confirmation(system: System, hospital: Hospital) -> None:
    system.proxies["store"].cut(20)
    assert hospital.submit("unconfirmed").status_code == 503
    assert hospital.count("SELECT count(*) FROM jobs WHERE external_id = 'unconfirmed'") == 0
    system.proxies["store"].mend()
    answer = hospital.try_again(lambda: hospital.submit("unconfirmed"))
    hospital.assert_each_answered_once([answer.json()["id"]])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", megabytes=4) as disk:
        yield disk


@pytest.fixture
def server_on_disk(
    disk: SmallDisk, settings_env: dict[str, str], plain_environ: dict[str, str], tmp_path: Path
) -> Iterator[Server]:
    """The API, with its objects on the small disk."""
    # No reserve is kept: this is about a disk that somebody else has filled since the API looked.
    settings = settings_env | {"THORAQ_STORAGE_DIR": str(disk.folder / "objects"), "THORAQ_DISK_RESERVE_BYTES": "0"}
    open_storage(parse(settings)).prepare()
    server = Server(plain_environ | settings | {"TMPDIR": str(tmp_path)}, tmp_path / "api.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@contextmanager
def full(disk: SmallDisk, server: Service) -> Iterator[None]:
    """While it lasts, the server can store nothing."""
    if disk.mounted:
        disk.fill()
        yield
        disk.free()
        return
    # Without a disk of our own: no file that the server writes may be as long as a picture.
    main = psutil.Process(server.pid)
    pids = [process.pid for process in (main, *main.children(recursive=True))]
    before = [
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (len(picture(1)) // 2, resource.RLIM_INFINITY)) for pid in pids
    ]
    yield
    for pid, limit in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def test_the_disk_full(disk: SmallDisk, server_on_disk: Server, clean_database: Database) -> None:
    key = new_key(clean_database, Scope.JOBS_WRITE, Scope.JOBS_READ)

    def submit() -> httpx.Response:
        return httpx.post(
            f"{server_on_disk.url}/v1/jobs",
            data={"classifier": "binary", "modality": "xray"},
            files={"files": ("1.png", picture(1))},
            headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "full"},
            timeout=20,
        )

    with full(disk, server_on_disk):
        assert submit().status_code == 503
        assert count(clean_database.engine, "SELECT count(*) FROM jobs") == 0
    assert submit().status_code == 202
    assert "Idempotency-Replayed" in submit().headers
    assert count(clean_database.engine, "SELECT count(*) FROM jobs") == 1
    assert not list((disk.folder / "objects" / ".incoming").iterdir())


def test_everything_on_a_full_disk(plain_environ: dict[str, str], tmp_path: Path) -> None:
    """The whole data folder: uploads are refused, and polls, health and counters go on in the same processes."""
    environ = plain_environ | QUICK | {"THORAQ_ENGINE": "stand-in", "THORAQ_DISK_RESERVE_BYTES": "0"}
    pictures = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(pictures):
        path.write_bytes(picture(number))
    with (
        SmallDisk(tmp_path / "disk", megabytes=300) as disk,
        Stack(disk.folder / "data", port=free_port(), environ=environ) as stack,
        stack.client() as client,
    ):
        job = client.submit([pictures[0]], classifier="binary", modality="xray")
        client.wait(job.id)
        api = psutil.Process(stack.children["api"].pid)
        before = {child.pid for child in api.children()}
        others = {name: child.pid for name, child in stack.children.items()}
        with full(disk, stack.children["api"]):
            # Not by the client, which tries again for as long as the answer says that it may help.
            refused = httpx.post(
                f"{stack.url}/v1/jobs",
                data={"classifier": "binary", "modality": "xray"},
                files={"files": ("1.png", pictures[1].read_bytes())},
                headers={"Authorization": f"Bearer {stack.key}"},
                timeout=20,
            )
            for _ in range(50):
                # A new connection each time, so that each process of the API is asked.
                for route in ("/healthz", "/metrics"):
                    assert httpx.get(f"{stack.url}{route}", timeout=20).status_code == 200
                with stack.client() as fresh:
                    assert fresh.job(job.id).status == "succeeded"
        assert refused.status_code == 503
        assert {child.pid for child in api.children()} == before
        assert {name: child.pid for name, child in stack.children.items() if child.running} == others
        client.wait(client.submit([pictures[1]], classifier="binary", modality="xray").id)
