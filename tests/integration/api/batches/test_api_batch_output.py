"""What a batch tells: its list, cancel and expiry, results and errors as NDJSON and CSV, progress as events."""

from __future__ import annotations

import csv
import io
import json
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from api.batches import results
from shared.config import Settings
from shared.db.engine import Database
from shared.db.listen_notify import Listener
from shared.db.tables import Batch, Job
from shared.errors import CorruptImage
from shared.jobs import reads, states
from shared.jobs.claims import Outcome
from tests.support.api import PNG, TEXT, Caller, MakeApp, claim_all, finish, json_of, new_key, problem_of, work
from tests.support.batches import counts, errors, output, packed, post_held, post_zip
from tests.support.rows import answer, enlarge, refusal
from tests.support.waiting import EVENT_SECONDS


def begin(caller: Caller, *names: str, **options: Any) -> str:
    """A batch of pictures with these names; its id. A name that ends with .txt is no picture."""
    members = [(name, TEXT if name.endswith(".txt") else PNG + name.encode()) for name in names]
    batch_id: str = json_of(post_zip(caller, packed(*members), **options), 202)["id"]
    return batch_id


def table(caller: Caller, batch_id: str, name: str) -> list[dict[str, str]]:
    """An output as CSV."""
    response = caller.get(f"/v1/batches/{batch_id}/{name}", headers={"Accept": "text/csv"})
    assert response.mimetype == "text/csv"
    return list(csv.DictReader(io.StringIO(response.text)))


def test_outputs_are_there_while_the_batch_runs_and_after_a_cancel(north: Caller, clean_database: Database) -> None:
    batch_id = begin(north, "a.png", "b.png", "c.txt", "d.png", "e.png")
    first, second, *_ = claim_all(clean_database)
    finish(clean_database, answer(first), Outcome(second, error=CorruptImage()))
    states = [(line["item"], line["job"]["status"]) for line in output(north, batch_id, "results")]
    assert states == [(0, "succeeded"), (1, "failed"), (3, "running"), (4, "running")]
    failures = [(1, "b.png", "failed", "corrupt-image"), (2, "c.txt", "rejected", "unsupported-image")]
    assert errors(north, batch_id) == failures
    batch = json_of(north.post(f"/v1/batches/{batch_id}/cancel"))
    assert (batch["status"], batch["counts"]) == (
        "cancelled",
        counts(total=5, succeeded=1, failed=1, cancelled=2, rejected=1),
    )
    assert batch["cancelled_at"]
    assert batch["completed_at"]
    assert errors(north, batch_id) == [*failures, (3, "d.png", "cancelled", None), (4, "e.png", "cancelled", None)]
    assert json_of(north.post(f"/v1/batches/{batch_id}/cancel")) == batch


def test_a_complete_batch_is_not_cancelled(north: Caller, clean_database: Database) -> None:
    batch_id = begin(north, "a.png")
    work(clean_database)
    problem_of(north.post(f"/v1/batches/{batch_id}/cancel"), 409, "conflict")


def test_results_of_many_images_are_read_a_few_jobs_at_once(
    north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = begin(north, *(f"{n}.png" for n in range(5)))
    work(clean_database)
    enlarge(clean_database, 3_000)
    read, pages = reads.of_batch, list[int]()

    def noted(*asked: Any) -> list[Job]:
        found = read(*asked)
        pages.append(len(found))
        return found

    monkeypatch.setattr(reads, "of_batch", noted)
    lines = output(north, batch_id, "results")
    assert [len(line["job"]["result"]["images"]) for line in lines] == [3_000] * 5
    assert pages == [2, 2, 1, 0]


def test_outputs_of_many_pages_are_in_order(
    north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n}.txt" if n % 3 == 0 else f"{n}.png" for n in range(20)]
    batch_id = begin(north, *names)
    finish(clean_database, *(Outcome(claim, error=CorruptImage()) for claim in claim_all(clean_database)[::2]))
    whole, of_errors = output(north, batch_id, "results"), errors(north, batch_id)
    assert [line["item"] for line in whole] == [n for n in range(20) if n % 3]
    assert [item for item, *_ in of_errors] == sorted(item for item, *_ in of_errors)
    assert len(of_errors) == 7 + 7
    monkeypatch.setattr(results, "PAGE", 3)
    monkeypatch.setattr(results, "_ERRORS", results._errors_statement())
    assert output(north, batch_id, "results") == whole
    assert errors(north, batch_id) == of_errors


def test_results_as_csv(north: Caller, clean_database: Database) -> None:
    batch_id = begin(north, "a.png", "=cmd.png", "c.png", "d.txt", "e,\u00e4.png")
    first, second, third, _ = claim_all(clean_database)
    doubt = ["thin-margin", "classifiers-disagree"]
    cut = Outcome(second, error=CorruptImage("cut, short"))
    finish(clean_database, answer(first, review_reasons=doubt), cut, refusal(third))
    rows = table(north, batch_id, "results")
    assert [(row["item"], row["member"], row["status"]) for row in rows] == [
        ("0", "a.png", "succeeded"),
        ("1", "'=cmd.png", "failed"),
        ("2", "c.png", "succeeded"),
        ("4", "e,\u00e4.png", "running"),
    ]
    answered, failed, rejected, running = rows
    assert (answered["prediction"], answered["probability_not_covid19"]) == ("not_covid19", "0.75")
    assert (answered["needs_review"], answered["model"]) == ("true", "test 1")
    assert (answered["outcome"], answered["review_reasons"]) == ("answered", "; ".join(doubt))
    times = [datetime.fromisoformat(answered[name]) for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert (running["started_at"] != "", running["finished_at"]) == (True, "")
    assert (failed["error_type"], failed["error_detail"], failed["prediction"]) == ("corrupt-image", "cut, short", "")
    assert (rejected["error_type"], rejected["prediction"]) == ("not-a-chest-image", "")
    assert (rejected["outcome"], rejected["finished_at"] != "") == ("rejected_input", True)
    assert running["job_id"].startswith("job_")
    assert [(row["item"], row["status"], row["error_type"]) for row in table(north, batch_id, "errors")] == [
        ("1", "failed", "corrupt-image"),
        ("3", "rejected", "unsupported-image"),
    ]
    asked = north.get(f"/v1/batches/{batch_id}/results?format=csv")
    assert asked.mimetype == "text/csv"
    problem_of(north.get(f"/v1/batches/{batch_id}/results?format=xml"), 422, "invalid-request")


@pytest.mark.parametrize(
    "value", ["=1", "+1", "-1", "@a", "\t=1", "\r", " =1", "\u00a0=1", "\uff1d1", " \uff0b1", "\n=1"]
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(value: str) -> None:
    assert results._cell(value) == f"'{value}"


@pytest.mark.parametrize("value", ["a=1", "1-2", "\u00e4.png", "", " a", None, 0.5])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert results._cell(value) == value


def test_batches_are_listed_newest_first(north: Caller) -> None:
    made = [begin(north, "a.png", external_id=name) for name in ("one", "two", "three")]
    first = json_of(north.get("/v1/batches?limit=2"))
    assert [batch["id"] for batch in first["data"]] == made[:0:-1]
    second = json_of(north.get(f"/v1/batches?limit=2&cursor={first['next_cursor']}"))
    assert ([batch["id"] for batch in second["data"]], second["next_cursor"]) == (made[:1], None)
    (found,) = json_of(north.get("/v1/batches?external_id=two"))["data"]
    assert found["id"] == made[1]


def test_a_poll_of_an_unchanged_batch_has_no_body(north: Caller, clean_database: Database) -> None:
    path = f"/v1/batches/{begin(north, 'a.png')}"
    tag = north.get(path).headers["ETag"]
    same = north.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.data) == (304, b"")
    work(clean_database)
    assert north.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_one_who_waits_for_a_batch_is_answered_when_all_of_it_has_ended(
    north: Caller, clean_database: Database
) -> None:
    path = f"/v1/batches/{begin(north, 'a.png', 'b.png')}"
    still = json_of(north.get(path, headers={"Prefer": "wait=0"}))
    assert still["status"] == "running"
    timer = threading.Timer(0.3, work, [clean_database])
    timer.start()
    try:
        ended = json_of(north.get(path, headers={"Prefer": "wait=60"}))
    finally:
        timer.join()
    assert (ended["status"], ended["counts"]) == ("completed", counts(total=2, succeeded=2))


def test_one_who_waits_for_a_batch_in_vain_is_told_how_it_stands(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_wait_seconds=0.1).test_client(), new_key(clean_database))
    path = f"/v1/batches/{begin(caller, 'a.png')}"
    found = caller.get(path, headers={"Prefer": "wait=60"})
    assert (json_of(found)["status"], found.headers["Retry-After"]) == ("running", "1")
    same = caller.get(path, headers={"Prefer": "wait=60", "If-None-Match": found.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_the_end_of_a_batch_is_announced(end: str, north: Caller, clean_database: Database, settings: Settings) -> None:
    batch_id = begin(north, "a.png", "b.png")
    one, other = claim_all(clean_database)
    with Listener(settings).expecting(batch_id) as ended:
        finish(clean_database, answer(one))
        assert not ended.wait(0.2)
        if end == "finish":
            finish(clean_database, answer(other))
        else:
            json_of(north.post(f"/v1/batches/{batch_id}/cancel"))
        assert ended.wait(EVENT_SECONDS)


def test_what_has_not_run_in_time_is_not_run(north: Caller, clean_database: Database) -> None:
    batch_id = begin(north, "a.png", "b.png", expires_in=3600)
    assert json_of(north.get(f"/v1/batches/{batch_id}"))["expires_at"]
    first, second = claim_all(clean_database)
    finish(clean_database, answer(first))
    with clean_database.transaction() as session:
        states.release(session, [second])
        session.execute(sa.update(Job).where(Job.item == 1).values(expires_at=sa.func.now() - timedelta(seconds=1)))
    with clean_database.transaction() as session:
        states.expire(session, 10)
    batch = json_of(north.get(f"/v1/batches/{batch_id}"))
    assert (batch["status"], batch["counts"]) == ("expired", counts(total=2, succeeded=1, failed=1))
    assert errors(north, batch_id) == [(1, "b.png", "failed", "expired")]


def test_force_reaches_the_jobs(north: Caller, clean_database: Database) -> None:
    batch_id = begin(north, "a.png", force=True)
    assert json_of(north.get(f"/v1/batches/{batch_id}"))["force"] is True
    assert [claim.force for claim in claim_all(clean_database)] == [True]


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event of a stream; comments are none."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_events_tell_the_progress_until_the_end(north: Caller, clean_database: Database) -> None:
    batch_id = begin(north, "a.png", "b.png")
    stream = north.get(f"/v1/batches/{batch_id}/events")
    assert (stream.mimetype, stream.headers["X-Accel-Buffering"]) == ("text/event-stream", "no")
    chunks = stream.iter_encoded()
    (first,) = events(next(chunks).decode())
    assert (first[0], first[1]["counts"]) == ("progress", counts(total=2, queued=2))
    one, other = claim_all(clean_database)
    finish(clean_database, answer(one))
    ((name, batch),) = events(next(chunks).decode())
    assert (name, batch["counts"]) == ("progress", counts(total=2, succeeded=1, running=1))
    finish(clean_database, answer(other))
    ((name, batch),) = events(b"".join(chunks).decode())
    assert (name, batch["status"]) == ("end", "completed")
    (again,) = events(north.get(f"/v1/batches/{batch_id}/events").text)
    assert again == (name, batch)


def test_events_end_after_a_while(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_wait_seconds=0.1).test_client(), new_key(clean_database))
    batch_id = begin(caller, "a.png")
    assert [name for name, _ in events(caller.get(f"/v1/batches/{batch_id}/events").text)] == ["progress"]


def test_events_end_at_once_while_too_many_wait(make_app: MakeApp, clean_database: Database) -> None:
    caller = Caller(make_app(max_event_streams_per_tenant=0).test_client(), new_key(clean_database))
    text = caller.get(f"/v1/batches/{begin(caller, 'a.png')}/events").text
    assert text.startswith("retry: 2000\n\n")
    assert [name for name, _ in events(text)] == ["progress"]


def test_a_cancel_while_items_come_in_leaves_exact_counts(north: Caller, clean_database: Database) -> None:
    members = [(f"{n}.png", PNG + str(n).encode()) for n in range(300)]
    archive = packed(*members)
    answers: list[int] = []
    go = threading.Event()
    caller = Caller(north.client.application.test_client(), north.key)
    sender = threading.Thread(target=lambda: answers.append(post_held(caller, archive, go, "k").status_code))
    sender.start()
    found: list[dict[str, Any]] = []
    while not found or not found[0]["counts"]["total"]:
        found = json_of(north.get("/v1/batches"))["data"]
    cancelled = json_of(north.post(f"/v1/batches/{found[0]['id']}/cancel"))
    go.set()
    sender.join()
    batch = json_of(north.get(f"/v1/batches/{found[0]['id']}"))
    assert answers == [409]
    assert cancelled["status"] == batch["status"] == "cancelled"
    assert batch["counts"] == cancelled["counts"]
    assert batch["counts"] == counts(total=batch["next_item"], cancelled=batch["next_item"])
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == batch["next_item"]
        assert session.scalar(sa.select(Batch.completed_at)) is not None
