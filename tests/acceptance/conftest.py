"""The whole system with real processes, for the acceptance tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from shared.config import parse
from shared.db.engine import Database
from shared.inference.engine_comparison import FOLDER
from shared.keys import Scope
from shared.storage import open_storage
from standalone.services import free_port
from standalone.stack import Stack
from tests.chaos.system import System
from tests.support.api import new_key
from tests.support.faults import FAULTY, QUICK, Hospital
from tests.support.servers.api import Server
from tests.support.waiting import EVENT_SECONDS


@pytest.fixture(scope="session")
def plain_environ() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes data folders in which systems find how fast this machine's engines are: the first of them measures it."""
    base = tmp_path_factory.getbasetemp()
    # Every process of pytest-xdist has a folder in that of the session.
    together = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / FOLDER
    together.mkdir(exist_ok=True)

    def make(data: Path) -> Path:
        data.mkdir(mode=0o700, exist_ok=True)  # one that others can enter is refused unless it is empty
        (data / "models").mkdir()
        (data / "models" / FOLDER).symlink_to(together)
        return data

    return make


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, plain_environ: dict[str, str], compared: Callable[[Path], Path]
) -> Iterator[Stack]:
    """Every process, once a session. Nothing starts by itself what a test has killed; see `whole_stack`."""
    data = compared(tmp_path_factory.mktemp("standalone"))
    with Stack(data, port=free_port(), environ=plain_environ | QUICK) as stack:
        yield stack


@pytest.fixture
def whole_stack(stack: Stack) -> Stack:
    """The same with every child up, whatever the tests before have killed."""
    for child in stack.children.values():
        child.start()
    stack.wait_ready()
    return stack


@pytest.fixture(scope="session")
def stand_in_stack(tmp_path_factory: pytest.TempPathFactory, plain_environ: dict[str, str]) -> Iterator[Stack]:
    """Every process, with a stand-in for the model: its answers are a known function of the pixels, at no cost."""
    engine = {"THORAQ_ENGINE": "stand-in", "THORAQ_STAND_IN_RATE": "0"}
    with Stack(tmp_path_factory.mktemp("stand-in"), port=free_port(), environ=plain_environ | QUICK | engine) as stack:
        yield stack


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Every process with a proxy before each engine, for the tests of faults; see `hospital`."""
    with System(tmp_path_factory.mktemp("system"), FAULTY) as system:
        yield system


@pytest.fixture
def hospital(system: System) -> Iterator[Hospital]:
    """Requests to the system, which is whole, whatever the tests before have done to it."""
    system.mend()
    database = system.database()
    hospital = Hospital(system, database)
    yield hospital
    hospital.http.close()
    database.dispose()


@pytest.fixture
def server(settings_env: dict[str, str], plain_environ: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """The server, warm: what its first request loads is no growth."""
    open_storage(parse(settings_env)).prepare()
    # The parser spools to the temporary folder; this one is on disk, whatever /tmp is.
    server = Server(plain_environ | settings_env | {"TMPDIR": str(tmp_path)}, tmp_path / "api.log")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server, clean_database: Database) -> Iterator[httpx.Client]:
    key = new_key(clean_database, Scope.JOBS_WRITE, Scope.JOBS_READ)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=EVENT_SECONDS) as client:
        yield client
