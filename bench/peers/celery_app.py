"""Peer: an ordinary Celery design. A task per image, its result in Redis, the client polls.

Celery's own settings but for what the model needs. Accepted images are lost with Redis, and a task with its worker.
"""

from __future__ import annotations

import functools
import os
import uuid
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.result import AsyncResult
from flask import Flask, Response, jsonify, request

from bench.peers.environment import NULL, REDIS_URL, UPLOADS
from bench.peers.model import XrayModel

app = Celery("bench.peers.celery_app", broker=os.environ[REDIS_URL], backend=os.environ[REDIS_URL])
app.conf.worker_proc_alive_timeout = 180  # Celery gives a child 4 s to start, and loading the model takes longer


@functools.cache
def model() -> XrayModel:
    """Return this process's model, on one core: Celery starts a process per core."""
    return XrayModel(threads=1)


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def load(**_: Any) -> None:
    """Load in the child, after the fork, and before its first task."""
    if NULL not in os.environ:
        model()


@app.task(name="classify")  # type: ignore[untyped-decorator]
def classify(path: str) -> dict[str, float]:
    """One image; the message names a file, as the two sides share a disk."""
    if NULL in os.environ:
        return {}
    return model().answer(model().read(Path(path).read_bytes()))


def create_app() -> Flask:
    """Make the HTTP edge: takes a file, starts a task, tells its result to whoever asks."""
    web = Flask(__name__)
    uploads = Path(os.environ[UPLOADS])

    @web.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @web.post("/jobs")
    def submit() -> tuple[Response, int]:
        path = uploads / uuid.uuid4().hex
        request.files["file"].save(path)
        return jsonify(id=classify.delay(str(path)).id), 202

    @web.get("/jobs/<job_id>")
    def poll(job_id: str) -> Response:
        result = AsyncResult(job_id, app=app)
        return jsonify(probabilities=result.get() if result.ready() else None)

    return web
