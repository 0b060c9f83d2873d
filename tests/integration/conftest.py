"""The API for the tests of it, on the real database, a store of its own and the real Redis."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from api import create_app
from api.http.services import EXTENSION
from shared.config import Settings
from shared.db.engine import Database, TenantDatabase
from tests.support.api import Caller, MakeApp, new_key, record_log
from tests.support.servers.webhook_receiver import Receiver
from tests.support.worker_drain import Counting


@pytest.fixture
def make_app(settings: Settings, clean_redis: None, tmp_path: Path) -> Iterator[MakeApp]:  # noqa: ARG001
    """Applications with some settings changed; their store is empty and ready."""
    made: list[Flask] = []
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def make(**changes: Any) -> Flask:
        app = create_app(settings.model_copy(update={"storage_dir": tmp_path / "objects"} | changes))
        app.extensions[EXTENSION].storage.prepare()
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions[EXTENSION].database.close()
    # The application logs to the standard error of its process, which was this test's alone.
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """The application with the settings of the tests."""
    return make_app()


@pytest.fixture
def logged(app: Flask, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the application logs from now on, as it would be printed."""
    del app  # making it sets the logging up
    return record_log(monkeypatch)


@pytest.fixture
def api_database(settings: Settings, clean_database: Database) -> Iterator[TenantDatabase]:  # noqa: ARG001
    """The database as the API has it."""
    database = TenantDatabase(settings)
    yield database
    database.close()


@pytest.fixture
def north(app: Flask, clean_database: Database) -> Caller:
    """A hospital with every scope."""
    return Caller(app.test_client(), new_key(clean_database, tenant="north"))


@pytest.fixture
def south(app: Flask, clean_database: Database) -> Caller:
    """Another hospital with every scope."""
    return Caller(app.test_client(), new_key(clean_database, tenant="south"))


@pytest.fixture
def storage(settings: Settings) -> Counting:
    """A folder store for the tests of workers, ready; it notes what is fetched."""
    storage = Counting(settings.storage_dir)
    storage.prepare()
    return storage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()
