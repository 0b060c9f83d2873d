"""Thoraq as `make run` starts it, and its client, which holds one request per image (`Prefer: wait`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from client import Client, ClientError
from standalone.services import free_port
from standalone.stack import Stack

WAIT_SECONDS = 30.0
TIMEOUT_SECONDS = 120.0


class Thoraq:
    """A running stack, through the Python client that hospitals use."""

    name = "Thoraq"

    def __init__(self, client: Client, bundle: Path) -> None:
        self.bundle = bundle
        self._client = client

    def classify(self, file: Path) -> Mapping[str, float]:
        """Submit one X-ray as a job of its own, on the disk before it is accepted; ClientError without an answer."""
        job = self._client.submit([file], classifier="binary", modality="xray", wait=WAIT_SECONDS)
        if not job.done:
            job = self._client.wait(job, TIMEOUT_SECONDS)
        probabilities = job.answer().probabilities
        if probabilities is None:
            raise ClientError("the image was rejected")
        return probabilities


@contextmanager
def thoraq(folder: Path) -> Iterator[Thoraq]:
    """The whole system on an empty folder, with its default settings; stopped at the end.

    THORAQ_* of the caller are left out: they may name a database in use, and the defaults are what is claimed.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
    with Stack(folder, port=free_port(), environ=environ) as stack, stack.client() as client:
        yield Thoraq(client, stack.settings.model_dir)
