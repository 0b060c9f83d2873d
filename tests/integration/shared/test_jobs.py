"""The job states, against a real PostgreSQL: what a claim allows, and what it fences off."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import (
    Artifact,
    Delivery,
    Event,
    EventType,
    Job,
    JobState,
    Modality,
    Priority,
    Result,
)
from shared.errors import Conflict, CorruptImage, EngineError, NotFound, Unavailable
from shared.ids import new_id
from shared.jobs import states
from shared.jobs.claims import Claim, Heatmap, Outcome
from shared.jobs.schemas import job_envelope
from tests.support.rows import (
    BUNDLE,
    LEASE,
    POLICY,
    add_batch,
    add_bundle,
    add_endpoint,
    add_job,
    add_tenant,
    answer,
    refusal,
    take,
    told,
)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """An empty database that knows the bundle the tests answer with."""
    with clean_database.transaction() as session:
        add_bundle(session)
    return clean_database


def state(database: Database, job_id: str) -> Job:
    """The job's row now."""
    with database.transaction() as session:
        return session.get_one(Job, job_id)


def one_job(database: Database) -> str:
    """A queued job of a tenant."""
    with database.transaction() as session:
        return add_job(session, add_tenant(session)).id


def die(database: Database) -> None:
    """Let every lease run out: the worker is gone."""
    with database.transaction() as session:
        session.execute(sa.update(Job).where(Job.lease_token.is_not(None)).values(lease_until=sa.func.now() - LEASE))


def looked(claim: Claim) -> list[Heatmap]:
    """A heatmap for each image of a claim."""
    return [Heatmap(new_id("art"), image.id, "not_covid19", b"png") for image in claim.images]


def test_a_claim_runs_and_its_answer_becomes_the_only_result(database: Database) -> None:
    job_id = one_job(database)
    with database.transaction() as session:
        (claim,) = take(session)
    assert state(database, job_id).state is JobState.RUNNING
    with database.transaction() as session:
        assert states.finish(session, [answer(claim)], POLICY) == []
    with database.transaction() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.lease_token, job.worker) == (JobState.SUCCEEDED, None, None)
        assert session.get_one(Result, job_id).prediction == "not_covid19"


def test_a_claimed_job_is_not_claimed_again(database: Database) -> None:
    one_job(database)
    with database.transaction() as first:
        assert len(take(first)) == 1
        with database.transaction() as second:  # the first has not committed: its row is locked, not waited for
            assert take(second, "w2") == []
    with database.transaction() as third:
        assert take(third, "w3") == []


def test_a_late_finisher_is_fenced_off(database: Database) -> None:
    job_id = one_job(database)
    with database.transaction() as session:
        (slow,) = take(session, "slow")
    die(database)
    with database.transaction() as session:
        assert states.rescue(session, 3) == ([job_id], [])
    with database.transaction() as session:
        (quick,) = take(session, "quick")
    with database.transaction() as session:
        assert states.finish(session, [answer(slow)], POLICY) == [job_id]
    assert state(database, job_id).state is JobState.RUNNING
    with database.transaction() as session:
        assert states.finish(session, [answer(quick)], POLICY) == []
    with database.transaction() as session:
        assert states.finish(session, [answer(quick)], POLICY) == [job_id]
        assert session.scalar(sa.select(sa.func.count()).select_from(Result)) == 1


def test_a_job_that_was_alone_when_its_worker_died_is_tried_again_behind_the_others_that_run_alone(
    database: Database,
) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant).id for _ in range(3)]
    with database.transaction() as session:
        assert len(take(session)) == 3
    order = []
    for _ in range(3):
        die(database)
        with database.transaction() as session:
            states.rescue(session, 3)
        with database.transaction() as session:
            order += [claim.job_id for claim in take(session)]
    assert sorted(order) == sorted(ids)


def test_a_lost_row_does_not_take_the_batch_with_it(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant).id for _ in range(3)]
    with database.transaction() as session:
        claims = take(session)
    with database.transaction() as session:
        states.cancel(session, tenant.id, ids[1])
    with database.transaction() as session:
        assert states.finish(session, [answer(claim) for claim in claims], POLICY) == [ids[1]]
    assert [state(database, job_id).state for job_id in ids] == ["succeeded", "cancelled", "succeeded"]


def test_each_row_of_a_batch_ends_in_its_own_way(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant).id for _ in range(5)]
    with database.transaction() as session:
        good, bad, again, worn, lost = take(session)
        session.execute(sa.update(Job).where(Job.id == worn.job_id).values(error_attempts=POLICY.max_attempts - 1))
    with database.transaction() as session:
        states.cancel(session, tenant.id, lost.job_id)
    transient = [Outcome(claim, error=EngineError("out of memory")) for claim in (again, worn)]
    outcomes = [answer(lost), *transient, Outcome(bad, error=CorruptImage("truncated")), answer(good)]
    with database.transaction() as session:
        assert states.finish(session, outcomes, POLICY) == [lost.job_id]
    rows = [state(database, job_id) for job_id in ids]
    assert [row.state for row in rows] == ["succeeded", "failed", "queued", "failed", "cancelled"]
    assert [row.error and row.error["type"] for row in rows] == [None, "corrupt-image", None, "engine", None]
    assert [row.error_attempts for row in rows] == [0, 0, 1, POLICY.max_attempts, 0]
    assert [row.lease_token for row in rows] == [None] * 5
    with database.transaction() as session:
        assert session.scalars(sa.select(Result.job_id)).all() == [good.job_id]


def test_a_token_opens_no_other_job(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant).id for _ in range(2)]
    with database.transaction() as session:
        first, second = take(session)
    crossed = replace(first, token=second.token)
    with database.transaction() as session:
        assert states.finish(session, [answer(crossed)], POLICY) == [first.job_id]
        assert states.heartbeat(session, [crossed], LEASE) == set()
        states.release(session, [crossed])
    assert [state(database, job_id).state for job_id in ids] == [JobState.RUNNING] * 2


def test_heartbeats_extend_what_is_still_held(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        kept, lost = add_job(session, tenant).id, add_job(session, tenant).id
    with database.transaction() as session:
        claims = take(session, lease=timedelta(seconds=5))
    before = state(database, kept).lease_until
    with database.transaction() as session:
        states.cancel(session, tenant.id, lost)
    with database.transaction() as session:
        assert states.heartbeat(session, claims, LEASE) == {kept}
    after = state(database, kept).lease_until
    assert before is not None
    assert after is not None
    assert after > before


def test_a_transient_error_is_tried_again_later_and_in_the_end_fails(database: Database) -> None:
    job_id = one_job(database)
    for attempt in range(POLICY.max_attempts):
        with database.transaction() as session:
            session.execute(sa.update(Job).values(not_before=None))
            (claim,) = take(session)
        with database.transaction() as session:
            states.finish(session, [Outcome(claim, error=EngineError("out of memory"))], POLICY)
        if attempt + 1 < POLICY.max_attempts:
            job = state(database, job_id)
            assert (job.state, job.error_attempts) == (JobState.QUEUED, attempt + 1)
            assert job.not_before is not None
    failed = state(database, job_id)
    assert failed.state is JobState.FAILED
    assert failed.error == {"type": "engine", "title": "Inference failed", "detail": "out of memory"}


def test_a_permanent_error_fails_at_once(database: Database) -> None:
    job_id = one_job(database)
    with database.transaction() as session:
        (claim,) = take(session)
        states.finish(session, [Outcome(claim, error=CorruptImage("truncated"))], POLICY)
    job = state(database, job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["type"] == "corrupt-image"


def test_release_gives_back_without_an_attempt(database: Database) -> None:
    job_id = one_job(database)
    with database.transaction() as session:
        claims = take(session)
        states.release(session, claims)
    job = state(database, job_id)
    assert (job.state, job.error_attempts, job.crash_attempts, job.isolated) == (JobState.QUEUED, 0, 0, False)


def test_jobs_of_a_dead_worker_run_alone_and_three_lone_crashes_quarantine(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = {add_job(session, tenant).id for _ in range(2)}
    with database.transaction() as session:
        assert len(take(session)) == 2
    die(database)
    with database.transaction() as session:
        requeued, _ = states.rescue(session, 3)
        assert set(requeued) == ids
    for crash in range(6):
        with database.transaction() as session:
            (isolated,) = take(session)  # alone, although two are queued
        die(database)
        with database.transaction() as session:
            requeued, quarantined = states.rescue(session, 3)
            assert (requeued, quarantined) == (([isolated.job_id], []) if crash < 4 else ([], [isolated.job_id]))
    for job in (state(database, job_id) for job_id in ids):
        assert (job.state, job.crash_attempts) == (JobState.QUARANTINED, 3)


def test_rescue_leaves_leases_in_force_alone(database: Database) -> None:
    one_job(database)
    with database.transaction() as session:
        take(session)
    with database.transaction() as session:
        assert states.rescue(session, 3) == ([], [])


def test_a_claim_counts_images_and_takes_a_large_study_all_the_same(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        large = add_job(session, tenant, images=40).id
        small = [add_job(session, tenant).id for _ in range(2)]
    with database.transaction() as session:
        assert [claim.job_id for claim in take(session, max_images=16)] == [large]
    with database.transaction() as session:
        assert [claim.job_id for claim in take(session, max_images=16)] == small


def test_workers_that_claim_together_share_the_queue(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        expected = {add_job(session, tenant).id for _ in range(60)}
    taken: list[str] = []
    lock = threading.Lock()

    def work(name: str) -> None:
        while True:
            with database.transaction() as session:
                claims = take(session, name, max_images=4)
            if not claims:
                return
            with database.transaction() as session:
                assert states.finish(session, [answer(claim) for claim in claims], POLICY) == []
            with lock:
                taken.extend(claim.job_id for claim in claims)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(expected)
    with database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Result)) == 60


def test_cancel_is_real_for_running_jobs_idempotent_and_private(database: Database) -> None:
    with database.transaction() as session:
        tenant, other = add_tenant(session), add_tenant(session, "other")
        job_id = add_job(session, tenant).id
    with database.transaction() as session:
        (claim,) = take(session)
    with database.transaction() as session, pytest.raises(NotFound):
        states.cancel(session, other.id, job_id)
    for _ in range(2):
        with database.transaction() as session:
            assert states.cancel(session, tenant.id, job_id).state is JobState.CANCELLED
    with database.transaction() as session:
        assert states.finish(session, [answer(claim)], POLICY) == [job_id]


def test_a_finished_job_cannot_be_cancelled(database: Database) -> None:
    job_id = one_job(database)
    with database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
        tenant_id = session.get_one(Job, job_id).tenant_id
    with database.transaction() as session, pytest.raises(Conflict):
        states.cancel(session, tenant_id, job_id)


@pytest.mark.parametrize("values", [{"state": "queued", "finished_at": None}, {"state": "failed"}])
def test_the_database_refuses_to_leave_a_terminal_state(database: Database, values: dict[str, object]) -> None:
    one_job(database)
    with database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    with pytest.raises(exc.IntegrityError, match="cannot go from succeeded"), database.transaction() as session:
        session.execute(sa.update(Job).values(**values))


def test_the_database_refuses_success_without_a_result(database: Database) -> None:
    one_job(database)
    with database.transaction() as session:
        take(session)
    ended = {"state": "succeeded", "finished_at": sa.func.now(), "lease_token": None, "lease_until": None}
    with pytest.raises(exc.IntegrityError, match="succeeded without a result"), database.transaction() as session:
        session.execute(sa.update(Job).values(**ended))


def test_a_rejected_input_is_a_success_for_batch_and_webhook_and_says_why(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        add_endpoint(session, tenant, "http://127.0.0.1:9/hook")
        batch = add_batch(session, tenant, total=1)
        job_id = add_job(session, tenant, batch=batch).id
    with database.transaction() as session:
        states.finish(session, [refusal(claim) for claim in take(session)], POLICY)
    assert state(database, job_id).state is JobState.SUCCEEDED
    bodies = told(database)
    assert bodies[EventType.BATCH_COMPLETED]["data"]["status"] == "completed"
    result = bodies[EventType.JOB_SUCCEEDED]["data"]["result"]
    assert (result["outcome"], result["reason"]) == ("rejected_input", "not-a-chest-image")
    assert (result["prediction"], result["probabilities"], result["aggregate"]) == (None, None, "none")
    assert result["images"][0]["rejected"] == "not-a-chest-image"


def test_an_answer_keeps_all_that_was_said(database: Database) -> None:
    job_id = one_job(database)
    second = {"classifier": "binary", "prediction": "covid19", "probabilities": {"covid19": 0.6, "not_covid19": 0.4}}
    with database.transaction() as session:
        (claim,) = take(session)
        said = {"review_reasons": ["thin-margin", "modality-corrected"], "second_opinion": second}
        states.finish(session, [answer(claim, corrected_modality=Modality.CT, **said)], POLICY)
    with database.transaction() as session:
        result = job_envelope(session.get_one(Job, job_id)).result
    assert result is not None
    assert (result.outcome, result.reason, result.needs_review) == ("answered", None, True)
    assert (result.modality, result.modality_corrected) == (Modality.CT, True)
    assert result.review_reasons == ["thin-margin", "modality-corrected"]
    assert result.second_opinion is not None
    assert result.second_opinion.model_dump() == second


def test_results_of_workers_before_revision_0003_read_as_plain_answers(database: Database) -> None:
    job_id = one_job(database)
    with database.transaction() as session:
        (claim,) = take(session)
        ended = {"state": "succeeded", "finished_at": sa.func.now(), "lease_token": None, "lease_until": None}
        session.execute(sa.update(Job).values(**ended))
        old = {"job_id": job_id, "tenant_id": claim.tenant_id, "bundle_sha256": BUNDLE, "prediction": "not_covid19"}
        columns = {"probabilities": {"not_covid19": 1.0}, "images": [{"image_id": "img", "file": 0, "frame": 0}]}
        session.execute(sa.insert(Result).values(**old, **columns, timings={}))
    with database.transaction() as session:
        result = job_envelope(session.get_one(Job, job_id)).result
    assert result is not None
    assert (result.outcome, result.prediction, result.modality) == ("answered", "not_covid19", Modality.XRAY)
    assert (result.needs_review, result.modality_corrected, result.second_opinion) == (False, False, None)


def test_the_database_refuses_an_answer_without_a_prediction(database: Database) -> None:
    one_job(database)
    with database.transaction() as session:
        (claim,) = take(session)
    mute = answer(claim, prediction=None, probabilities=None)
    with pytest.raises(exc.IntegrityError, match="answer_or_reason"), database.transaction() as session:
        states.finish(session, [mute], POLICY)


def test_heatmaps_are_kept_with_the_result_and_go_with_a_lost_lease(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        kept, lost = (add_job(session, tenant, images=2).id for _ in range(2))
    with database.transaction() as session:
        claims = take(session)
    with database.transaction() as session:
        states.cancel(session, tenant.id, lost)
    with database.transaction() as session:
        assert states.finish(session, [answer(claim, heatmaps=looked(claim)) for claim in claims], POLICY) == [lost]
    images = [image.id for claim in claims if claim.job_id == kept for image in claim.images]
    with database.transaction() as session:
        rows = session.scalars(sa.select(Artifact)).all()
        result = job_envelope(session.get_one(Job, kept)).result
    assert {(row.job_id, row.tenant_id, row.kind, row.class_name, row.content) for row in rows} == {
        (kept, tenant.id, "heatmap", "not_covid19", b"png")
    }
    assert sorted(row.image_id for row in rows) == sorted(images)
    assert result is not None
    paths = {row.image_id: f"/v1/jobs/{kept}/artifacts/{row.id}" for row in rows}
    assert [image.heatmap for image in result.images] == [paths[image] for image in images]


def test_each_terminal_state_tells_subscribed_endpoints_once_and_without_metadata(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        wants = add_endpoint(session, tenant, "http://127.0.0.1:9/a", ["job.succeeded"])
        add_endpoint(session, tenant, "http://127.0.0.1:9/b", ["job.failed"])
        add_job(session, tenant, metadata={"name": "CANARY"})
    with database.transaction() as session:
        states.finish(session, [answer(claim) for claim in take(session)], POLICY)
    with database.transaction() as session:
        (event,) = session.scalars(sa.select(Event))
        (delivery,) = session.scalars(sa.select(Delivery))
    assert (delivery.event_id, delivery.endpoint_id) == (event.id, wants.id)
    body = told(database)[EventType.JOB_SUCCEEDED]
    assert (body["type"], body["data"]["status"]) == ("job.succeeded", "succeeded")
    assert datetime.fromisoformat(body["timestamp"]) == event.created_at
    assert body["data"]["result"]["prediction"] == "not_covid19"
    assert "CANARY" not in str(body)


def test_rescued_jobs_run_next(database: Database) -> None:
    with database.transaction() as session:
        tenant = add_tenant(session)
        bulk = add_job(session, tenant, priority=Priority.BULK).id
    with database.transaction() as session:
        take(session)
    with database.transaction() as session:
        add_job(session, tenant)
    die(database)
    with database.transaction() as session:
        states.rescue(session, 3)
    with database.transaction() as session:
        assert [claim.job_id for claim in take(session)] == [bulk]


def test_a_worker_frozen_in_its_claim_does_not_hold_the_rows_for_ever(settings: Settings, database: Database) -> None:
    job_id = one_job(database)
    frozen = Database(settings, pool_size=1)

    def freeze() -> None:
        with frozen.transaction() as session:
            session.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '500ms'"))
            assert len(take(session, "frozen")) == 1
            with database.transaction() as other:
                assert take(other, "other") == []
            time.sleep(1)
            with database.transaction() as other:
                assert [claim.job_id for claim in take(other, "other")] == [job_id]

    with pytest.raises(Unavailable):
        freeze()
    frozen.close()
