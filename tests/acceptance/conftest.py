"""The whole system with real processes, for the acceptance tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from standalone.services import free_port
from standalone.stack import Stack

# What takes a minute in production takes seconds here; tests wait for states, never for a time.
QUICK = {
    "THORAQ_LEASE_SECONDS": "6",
    "THORAQ_HEARTBEAT_SECONDS": "1",
    "THORAQ_POLL_SECONDS": "1",
    "THORAQ_SWEEP_SECONDS": "1",
    "THORAQ_RETRY_BASE_SECONDS": "0.5",
    "THORAQ_WEBHOOK_RETRY_SECONDS": "1,1,2,2,5",
}


@pytest.fixture(scope="session")
def plain_environ() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, plain_environ: dict[str, str]) -> Iterator[Stack]:
    """Every process, once a session. Nothing starts by itself what a test has killed; see `whole_stack`."""
    data = tmp_path_factory.mktemp("standalone")
    with Stack(data, port=free_port(), environ=plain_environ | QUICK) as stack:
        yield stack


@pytest.fixture
def whole_stack(stack: Stack) -> Stack:
    """The same with every child up, whatever the tests before have killed."""
    for child in stack.children.values():
        child.start()
    stack.wait_ready()
    return stack
