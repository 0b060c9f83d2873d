"""The ordinary Celery design: its Redis, its worker and its edge, together or one by one."""

from __future__ import annotations

import json
import os
import secrets
from datetime import datetime
from pathlib import Path

from celery import Celery
from redis import Redis as RedisClient

from bench.lab import until
from bench.peers.environment import REDIS_URL, UPLOADS
from bench.peers.servers import Web, flask_server
from standalone.programs import Program
from standalone.services import Redis

RESULTS = "celery-task-meta-*"
# Celery's default pool: as many processes as cores, each with its model.
WORKER = ["celery", "-A", "bench.peers.celery_app", "worker", "--loglevel", "WARNING"]


class CeleryPeer:
    """Its processes, not started yet; `environment` is told to both sides."""

    def __init__(self, folder: Path, clients: int, **environment: str) -> None:
        folder.mkdir()
        uploads = folder / "uploads"
        uploads.mkdir()
        self.redis = Redis(folder / "redis", secrets.token_hex(16), log=folder / "redis.log")
        told = {REDIS_URL: self.redis.url, UPLOADS: str(uploads), **environment}
        self.worker = Program("celery", WORKER, {**os.environ, **told}, folder / "worker.log")
        self.web: Web = flask_server("bench.peers.celery_app:create_app", clients, folder / "web.log", told)

    def queue(self, count: int) -> None:
        """Send tasks that no edge has asked for."""
        app = Celery(broker=self.redis.url, backend=self.redis.url, set_as_current=False)
        for _ in range(count):
            app.send_task("classify", args=["nothing"])
        app.close()

    def wait_for(self, count: int) -> None:
        """Return when that many results are there; TimeoutError after minutes."""
        with RedisClient.from_url(self.redis.url) as client:
            until(lambda: _results(client) >= count, f"the result of the last of {count} tasks")

    def wait_idle(self) -> int:
        """Return how many results there are, once no task is left and none has come for a moment."""
        seen = [-1]

        def idle() -> bool:
            seen.append(_results(client))
            return not client.llen("celery") and not client.hlen("unacked") and seen[-1] == seen[-2]

        with RedisClient.from_url(self.redis.url) as client:
            until(idle, "the end of the Celery queue")
        return seen[-1]

    def finished_at(self) -> list[float]:
        """When each task was done, by its own word; sorted, in seconds."""
        with RedisClient.from_url(self.redis.url) as client:
            keys = list(client.scan_iter(RESULTS, count=10_000))
            found = [json.loads(value) for value in client.mget(keys) if value is not None]
        return sorted(datetime.fromisoformat(result["date_done"]).timestamp() for result in found)

    def forget(self) -> None:
        """Begin again without results."""
        with RedisClient.from_url(self.redis.url) as client:
            client.flushdb()


def _results(client: RedisClient) -> int:
    return sum(1 for _ in client.scan_iter(RESULTS, count=10_000))
