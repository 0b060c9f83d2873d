"""What a run breaks: the processes of `make run` (tests/chaos/system.py) or containers (tests/chaos/containers.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import sqlalchemy as sa

from client import Client


class Child(Protocol):
    """One part that can be ended and started again."""

    @property
    def pid(self) -> int:
        """Its main process, on this machine."""

    @property
    def running(self) -> bool:
        """Whether it runs."""

    def start(self) -> None:
        """Start it, unless it runs; return at once."""

    def kill(self) -> None:
        """SIGKILL; nothing but `start` brings it back."""

    def ask_to_stop(self) -> None:
        """Send its stop signal and return at once."""


class Line(Protocol):
    """A way between two parts; how it is broken depends on what it is."""

    def mend(self) -> None:
        """Let everything through."""


class Target(Protocol):
    """The system under test, which is up."""

    #: Where receivers on this machine are reached from it.
    callback_host: str

    @property
    def children(self) -> Mapping[str, Child]:
        """Its parts by the names that the schedule has for them."""

    @property
    def lines(self) -> Mapping[str, Line]:
        """The ways between them, and to the API."""

    @property
    def url(self) -> str:
        """Where clients reach the API."""

    @property
    def key(self) -> str:
        """The first tenant's API key."""

    @property
    def redis_url(self) -> str:
        """Redis, by a way that nobody breaks."""

    def client(self) -> Client:
        """A client with the first tenant's key."""

    def database(self) -> sa.Engine:
        """The database, by a way that nobody breaks."""

    def worker_pattern(self, name: str) -> str:
        """How a child that runs jobs is called in the database, for LIKE."""

    def log_of(self, name: str) -> str:
        """Everything that a child has logged."""

    def doctor(self) -> str:
        """What `thoraq-admin doctor` complains of; empty when it is content."""
