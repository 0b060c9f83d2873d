"""For those who operate it: is the process alive, can it keep its promise, what does it count."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta

import sqlalchemy as sa
from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector
from redis import Redis, RedisError
from redis.exceptions import OutOfMemoryError

from api.http.responses import json_response
from api.http.schemas import Readiness
from api.http.services import Services, services
from shared.db.checks import check_for_api
from shared.db.engine import SCHEMA_IS_MISSING, Database
from shared.db.tables import PENDING_DELIVERIES, QUEUE, Worker
from shared.doorbell import QUEUES
from shared.errors import QueueError, ThoraqError, Unavailable

NO_WORKER = "no live worker"
#: A worker that cannot load its model is started again and again, at longer and longer intervals.
PROBLEM_MINUTES = 10
#: A name that nobody reads.
BROKER_CHECK = "thoraq:readyz"
blueprint = APIBlueprint("health", __name__, abp_tags=[Tag(name="operation")])


@blueprint.get("/healthz", responses={"200": {"description": "The process lives"}})
def healthz() -> Response:
    """Say that the process lives; nothing about its surroundings."""
    return jsonify({"status": "alive"})


@blueprint.get("/readyz", responses={"200": Readiness, "503": Readiness})
def readyz() -> Response:
    """Database, store, broker, room for more, and a live worker per queue; 503 says which is missing."""
    service = services()
    checks = {
        "database": _check(lambda: _check_database(service)),
        "storage": _check(service.storage.check),
        "broker": _check(lambda: _check_broker(service)),
        **service.admission.problems(),
    }
    live = _live_queues(service) if checks["database"] == "ok" else set()
    problems = _problems(service) if checks["database"] == "ok" else {}
    checks |= {f"worker:{queue}": "ok" if queue in live else problems.get(queue, NO_WORKER) for queue in QUEUES}
    ready = all(result == "ok" for result in checks.values())
    return json_response(Readiness(status="ready" if ready else "unready", checks=checks), 200 if ready else 503)


@blueprint.get("/metrics", responses={"200": {"description": "Prometheus text", "content": {"text/plain": {}}}})
def metrics() -> Response:
    """Counters of this service and gauges of the queue, for Prometheus."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        # Several server processes count into files of one folder; any of them may be asked.
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        parts = generate_latest(registry)
    else:
        parts = generate_latest(REGISTRY)
    registry = CollectorRegistry()
    registry.register(QueueCollector(services().database))
    return Response(parts + generate_latest(registry), mimetype=CONTENT_TYPE_LATEST)


class QueueCollector(Collector):
    """Gauges read from the database when they are asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterable[Metric]:
        """Jobs that are not terminal, the oldest one's age, deliveries that are due, live workers."""
        with self._database.transaction() as session:
            of = QUEUE.c
            live = sa.select(of.state, of.priority, sa.func.count()).where(of.finished_at.is_(None))
            jobs = session.execute(live.group_by(of.state, of.priority)).all()
            age = sa.extract("epoch", sa.func.now() - sa.func.min(of.queued_at))
            oldest = session.scalar(sa.select(age).where(of.finished_at.is_(None)))
            pending = session.scalar(sa.select(sa.func.count()).select_from(PENDING_DELIVERIES))
            fresh = sa.and_(Worker.takes_work(), Worker.seen_at > sa.func.now() - timedelta(minutes=1))
            workers = session.execute(
                sa.select(Worker.queue, sa.func.count()).where(fresh).group_by(Worker.queue)
            ).all()
        gauge = GaugeMetricFamily("thoraq_jobs", "Jobs that are not terminal", labels=("state", "priority"))
        for state, priority, count in jobs:
            gauge.add_metric((state, priority), count)
        yield gauge
        yield GaugeMetricFamily("thoraq_oldest_job_seconds", "Age of the oldest such job", value=float(oldest or 0))
        yield GaugeMetricFamily("thoraq_deliveries_pending", "Webhook deliveries under way", value=pending or 0)
        gauge = GaugeMetricFamily("thoraq_workers", "Live workers", labels=("queue",))
        for queue, count in workers:
            gauge.add_metric((queue,), count)
        yield gauge


def _check(probe: Callable[[], None]) -> str:
    try:
        probe()
    except ThoraqError as error:
        return error.detail
    return "ok"


def _check_database(service: Services) -> None:
    try:
        check_for_api(service.settings)
    except Unavailable as error:
        raise Unavailable("the database does not answer") from error  # whoever asks need not know where it is
    with service.database.transaction() as session:
        try:
            session.execute(sa.select(sa.func.count()).select_from(Worker))
        except sa.exc.ProgrammingError as error:
            raise Unavailable(SCHEMA_IS_MISSING) from error


def _check_broker(service: Services) -> None:
    url = service.settings.redis_url.get_secret_value()
    try:
        with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as redis:
            # A full one answers a ping and takes no doorbell.
            redis.set(BROKER_CHECK, 1, ex=1)
    except OutOfMemoryError as error:
        raise QueueError("the broker's memory is full; work goes on more slowly") from error
    except RedisError as error:
        raise QueueError("the broker does not answer; work goes on more slowly") from error


def _live_queues(service: Services) -> set[str]:
    # Three heartbeats may be missed before a worker counts as gone.
    fresh = Worker.seen_at > sa.func.now() - timedelta(seconds=3 * service.settings.heartbeat_seconds + 1)
    with service.database.transaction() as session:
        return set(session.scalars(sa.select(Worker.queue).where(fresh, Worker.takes_work())))


def _problems(service: Services) -> dict[str, str]:
    """Why workers that started lately could not take work of a queue."""
    lately = Worker.seen_at > sa.func.now() - timedelta(minutes=PROBLEM_MINUTES)
    wanted = sa.select(Worker.queue, Worker.bundle_problem).where(lately, ~Worker.takes_work()).order_by(Worker.seen_at)
    with service.database.transaction() as session:
        return {queue: f"{NO_WORKER}: {problem}" for queue, problem in session.execute(wanted)}
