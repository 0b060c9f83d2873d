"""A worker that cannot take work says why, and where operators look it is seen, and is not taken for a live one."""

from __future__ import annotations

import json
from datetime import timedelta

import sqlalchemy as sa
from typer.testing import CliRunner

from admin.__main__ import app as admin
from shared.config import settings as read_settings
from shared.db.engine import Database
from shared.db.tables import Worker
from shared.doorbell import CLASSIFY
from tests.support.api import MakeApp, json_of
from tests.support.rows import add_job, add_tenant
from worker.runner import report_problem

PROBLEM = "no engine runs model bundle tiny as it should: it needs 0.50 GB of memory"


def classify_check(make_app: MakeApp) -> str:
    answer = make_app().test_client().get("/readyz")
    return str(json_of(answer, 503)["checks"]["worker:classify"])


def test_readiness_says_why_there_is_no_worker(make_app: MakeApp, clean_database: Database) -> None:
    assert classify_check(make_app) == "no live worker"
    report_problem(clean_database, "classify@one", CLASSIFY, PROBLEM)
    assert classify_check(make_app) == f"no live worker: {PROBLEM}"
    assert 'thoraq_workers{queue="classify"}' not in make_app().test_client().get("/metrics").text


def test_it_is_forgotten_when_nobody_has_said_it_for_a_while(make_app: MakeApp, clean_database: Database) -> None:
    report_problem(clean_database, "classify@one", CLASSIFY, PROBLEM)
    with clean_database.transaction() as session:
        session.execute(sa.update(Worker).values(seen_at=sa.func.now() - timedelta(minutes=11)))
    assert classify_check(make_app) == "no live worker"


def test_a_worker_that_serves_another_bundle_is_live(make_app: MakeApp, clean_database: Database) -> None:
    with clean_database.transaction() as session:
        session.add(Worker(name="classify@one", queue=CLASSIFY, bundle_sha256="ab" * 32, bundle_problem=PROBLEM))
    assert classify_check(make_app) == "ok"


def test_the_queue_is_shown_with_who_works_on_it(clean_database: Database, settings_env: dict[str, str]) -> None:
    with clean_database.transaction() as session:
        add_job(session, add_tenant(session))
    report_problem(clean_database, "classify@one", CLASSIFY, PROBLEM)
    figures = "openvino-int8 not taken: 14.2 images/s, openvino-float32 16.9"
    serves = {"bundle_sha256": "ab" * 32, "engine": "openvino-float32", "engine_reason": figures}
    with clean_database.transaction() as session:
        session.add(Worker(name="classify@two", queue=CLASSIFY, **serves))
    read_settings.cache_clear()
    try:
        shown = CliRunner().invoke(admin, ["queue", "--json"], env=settings_env)
        printed = CliRunner().invoke(admin, ["queue"], env=settings_env | {"COLUMNS": "400"})
    finally:
        read_settings.cache_clear()
    assert shown.exit_code == printed.exit_code == 0, shown.output + printed.output
    found = json.loads(shown.stdout)
    assert [(row["state"], row["jobs"]) for row in found["jobs"]] == [("queued", 1)]
    worker, other = found["workers"]
    assert (worker["worker"], worker["queue"], worker["takes_work"]) == ("classify@one", CLASSIFY, False)
    assert worker["problem"] == PROBLEM
    assert (other["takes_work"], other["engine"], other["engine_reason"]) == (True, "openvino-float32", figures)
    assert "Other engines" in printed.stdout
    assert "classify@one" in printed.stdout
