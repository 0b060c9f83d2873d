"""The Celery application: `celery -A worker.app worker --queues classify --pool solo`.

What a process does follows from the queues that it consumes: `classify` loads the model bundle into this very
process (TensorFlow does not survive a fork), `deliver` and `sweep` need no model.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from celery import Celery, signals
from kombu.transport.redis import Channel
from prometheus_client import start_http_server

from shared.config import Settings, settings
from shared.db.engine import Database
from shared.db.tables import Worker
from shared.doorbell import CLASSIFY, DELIVER, QUEUES, SWEEP
from shared.errors import ConfigError, ModelError, ThoraqError, Unavailable
from shared.log import set_up_logging
from shared.storage import Storage, open_storage
from worker.bundles.reloader import BundleReloader
from worker.celery_config import celery_settings
from worker.deliver.handler import Deliver
from worker.runner import QueueRunner, report_problem
from worker.sweep import Sweep
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)
runners: dict[str, QueueRunner] = {}
Made = TypeVar("Made")

# kombu puts unacknowledged messages back when a connection ends, and when Redis has died it fails over that and takes
# the worker with it. A doorbell needs no putting back.
Channel.do_restore = False


def _settings_or_exit() -> Settings:
    try:
        return settings()
    except ConfigError as error:
        sys.exit(f"thoraq: {error.detail}")


SETTINGS = _settings_or_exit()
app = Celery("thoraq")
app.conf.update(
    celery_settings(SETTINGS),
    worker_consumer="worker.celery_consumer:Listener",
    beat_scheduler="worker.beat:HeartbeatScheduler",
)


@app.task(name=f"thoraq.{CLASSIFY}")
def classify() -> None:
    """Answer the doorbell of the classify queue."""
    runners[CLASSIFY].work()


@app.task(name=f"thoraq.{DELIVER}")
def deliver() -> None:
    """Answer the doorbell of the deliver queue."""
    runners[DELIVER].work()


@app.task(name=f"thoraq.{SWEEP}")
def sweep() -> None:
    """Sent by beat."""
    runners[SWEEP].work()


@signals.setup_logging.connect
def _set_up_logging(**_: object) -> None:
    set_up_logging(SETTINGS.log_level)


@signals.celeryd_init.connect
def _hear_stop_early(**_: object) -> None:
    """End in order when told to before Celery listens, which it does once the model is loaded.

    A container's first process has no default for SIGTERM: unheard, the worker would load, work, and be killed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


@signals.celeryd_after_setup.connect
def _set_up(sender: str, instance: Any, **_: object) -> None:
    """Build what the consumed queues need, before the first message; a worker that cannot does not start."""
    try:
        _open_runners(sender, sorted(set(instance.app.amqp.queues.consume_from) & set(QUEUES)))
    except Exception as error:
        # Celery logs what a signal handler raises and goes on: a worker without a model would take doorbells.
        detail = error.detail if isinstance(error, ThoraqError) else None
        log.exception(
            "worker.not_started", worker=sender, error=type(error).__name__, detail=detail, exc_info=not detail
        )
        raise SystemExit(1) from error


def _open_runners(name: str, queues: list[str]) -> None:
    database = Database(SETTINGS)
    _patiently(database.check_timeouts)
    _patiently(lambda: _sign_off(name, database))
    for queue in queues:
        runners[queue] = _runner(queue, name, database)
    if SETTINGS.metrics_port:
        start_http_server(SETTINGS.metrics_port)
    for runner in runners.values():
        runner.open()
    Watchdog(SETTINGS.progress_seconds, _progress).start()
    log.info("worker.ready", worker=name, queues=queues)


def _progress() -> float:
    """Return the progress of the runner that gets on least."""
    return min(runner.progress for runner in runners.values())


def _sign_off(name: str, database: Database) -> None:
    """Sign off a worker of this name that was killed a moment ago: it must not vouch for this one while it loads."""
    with database.transaction() as session:
        session.execute(sa.delete(Worker).where(Worker.name == name))


def _patiently(act: Callable[[], Made]) -> Made:
    """Do what needs the database, however long it is away: a worker that started first waits for it."""
    while True:
        try:
            return act()
        except Unavailable as error:
            log.warning("worker.waiting", error=error.type, detail=error.detail)
            time.sleep(SETTINGS.poll_seconds)


def _runner(queue: str, name: str, database: Database) -> QueueRunner:
    if queue == DELIVER:
        return QueueRunner(name, queue, Deliver(SETTINGS, database), database, SETTINGS)
    storage = open_storage(SETTINGS)
    if queue == SWEEP:
        return QueueRunner(name, queue, Sweep(SETTINGS, database, storage), database, SETTINGS)
    return _classify_runner(name, database, storage)


def _classify_runner(name: str, database: Database, storage: Storage) -> QueueRunner:
    # Imported here: the other handlers never load TensorFlow.
    from shared.inference.bundle import Bundle
    from shared.inference.engines import open_engine
    from shared.memory import memory_limit, resident
    from worker.bundles.cache import ModelCache
    from worker.classify import fake_predictor
    from worker.classify.handler import Classify
    from worker.classify.predictor import Model

    if SETTINGS.engine in {"null", "stand-in"}:
        predictor = (
            fake_predictor.null() if SETTINGS.engine == "null" else fake_predictor.stand_in(SETTINGS.stand_in_rate)
        )
        log.warning("worker.measures", engine=SETTINGS.engine, notice=fake_predictor.NOTICE)
        drill = _patiently(lambda: Classify(name, SETTINGS, database, storage, predictor))
        return QueueRunner(name, CLASSIFY, drill, database, SETTINGS)
    cache = ModelCache(SETTINGS.model_cache, storage)
    # What the process has without a bundle is part of what a bundle's card says that it needs.
    bare, limit = resident(), memory_limit()
    log.info("worker.memory", limit=limit, batch_size=SETTINGS.batch_size)

    def load(bundle: Bundle) -> Model:
        """With the memory that another bundle, which serves meanwhile, leaves."""
        engine, why = open_engine(bundle, SETTINGS, room=limit - (resident() - bare))
        return Model(bundle, engine, why)

    reloader = BundleReloader(SETTINGS.model_dir, database, cache, load)
    model = _patiently(lambda: _first(reloader, name, database))
    handler = _patiently(lambda: Classify(name, SETTINGS, database, storage, model))
    return QueueRunner(name, CLASSIFY, handler, database, SETTINGS, reloader)


def _first(reloader: BundleReloader[Made], name: str, database: Database) -> Made:
    """Return the model to begin with; a worker that has none says why where /readyz and `thoraq-admin queue` look."""
    try:
        return reloader.first()
    except ModelError as error:
        report_problem(database, name, CLASSIFY, error.detail)
        raise


@signals.beat_init.connect
def _show_beat(**_: object) -> None:
    if SETTINGS.metrics_port:
        start_http_server(SETTINGS.metrics_port)


@signals.worker_shutting_down.connect
def _stop(**_: object) -> None:
    for runner in runners.values():
        runner.stop()


@signals.worker_shutdown.connect
def _close(**_: object) -> None:
    for runner in runners.values():
        runner.close()
