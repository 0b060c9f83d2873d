"""thoraq-admin queue: what waits and runs, and who works on it or says why it cannot."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import typer
from sqlalchemy.orm import Session

from admin.console import AsJson, field, open_database, show
from console.terminal import Column, duration
from shared.db.tables import QUEUE, Worker

#: Workers that were seen within this time are shown; the sweeper forgets those of an hour ago.
SEEN = timedelta(hours=1)
JOBS = ["state", "priority", "jobs", "oldest_seconds"]
WORKERS = {
    "worker": Worker.name,
    "queue": Worker.queue,
    "takes_work": Worker.takes_work(),
    "seen_seconds_ago": sa.cast(sa.extract("epoch", sa.func.now() - Worker.seen_at), sa.Integer),
    "bundle": Worker.bundle_sha256,
    "engine": Worker.engine,
    "engine_reason": Worker.engine_reason,
    "problem": Worker.bundle_problem,
}


def _ago(name: str, heading: str, **how: Any) -> Column[dict[str, object]]:
    return Column(heading, lambda row: _duration(row[name]), right=True, **how)


def _duration(seconds: object) -> str:
    return duration(seconds) if isinstance(seconds, int) else ""


JOB_COLUMNS: list[Column[dict[str, object]]] = [
    field("state"),
    field("priority"),
    field("jobs", right=True),
    _ago("oldest_seconds", "Oldest"),
]
WORKER_COLUMNS: list[Column[dict[str, object]]] = [
    field("worker"),
    field("queue", leaves=3),
    Column("Takes work", lambda row: "yes" if row["takes_work"] else "no"),
    _ago("seen_seconds_ago", "Seen ago", leaves=2),
    field("bundle", leaves=1),
    field("engine"),
    field("engine_reason", "Other engines", wraps=28),
    field("problem", wraps=28),
]


def show_queue(as_json: AsJson = False) -> None:
    """Jobs that are not terminal, and the workers of every queue with what keeps them from working."""
    with open_database() as database, database.transaction() as session:
        jobs, workers = _jobs(session), _workers(session)
    if as_json:
        typer.echo(json.dumps({"jobs": jobs, "workers": workers}, default=str))
        return
    show(JOB_COLUMNS, jobs, as_json=False)
    show(WORKER_COLUMNS, workers, as_json=False)


def _jobs(session: Session) -> list[dict[str, object]]:
    of = QUEUE.c
    age = sa.cast(sa.extract("epoch", sa.func.now() - sa.func.min(of.queued_at)), sa.Integer)
    live = sa.select(of.state, of.priority, sa.func.count(), age).where(of.finished_at.is_(None))
    rows = session.execute(live.group_by(of.state, of.priority).order_by(of.state, of.priority))
    return [dict(zip(JOBS, row, strict=True)) for row in rows]


def _workers(session: Session) -> list[dict[str, object]]:
    recent = sa.select(*WORKERS.values()).where(Worker.seen_at > sa.func.now() - SEEN)
    rows = session.execute(recent.order_by(Worker.queue, Worker.name))
    return [dict(zip(WORKERS, row, strict=True)) for row in rows]
