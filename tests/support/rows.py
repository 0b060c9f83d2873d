"""Rows for the tests of jobs, workers and deliveries, made through the functions that production uses."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import keys
from shared.db.engine import Database
from shared.db.tables import (
    Batch,
    Classifier,
    Event,
    EventType,
    Image,
    Job,
    Modality,
    ModelBundle,
    Priority,
    ResultOutcome,
    Study,
    Tenant,
    WebhookEndpoint,
)
from shared.ids import new_id
from shared.jobs import states
from shared.jobs.claims import Answer, Claim, Outcome, RetryPolicy
from shared.jobs.new_jobs import NewJob
from shared.jobs.schemas import Rejection
from shared.webhooks.signing import new_secret
from tests.support.waiting import EVENT_SECONDS
from worker.deliver.payloads import payloads

BUNDLE = "b" * 64
LEASE = timedelta(seconds=30)
AGEING = timedelta(minutes=30)
POLICY = RetryPolicy(max_attempts=3, base_seconds=0.001)


def add_tenant(session: Session, name: str = "north") -> Tenant:
    """A hospital."""
    return keys.tenant_named(session, name)


def add_bundle(session: Session) -> None:
    """The bundle that `answer` names."""
    session.merge(ModelBundle(sha256=BUNDLE, name="test", version="1", card={}))
    session.flush()


def add_job(
    session: Session, tenant: Tenant, *, images: int = 1, modality: Modality = Modality.XRAY, **asked: Any
) -> Job:
    """A queued job for a study of so many images, whose objects do not exist; `asked` as for `ask_about`."""
    return ask_about(session, add_study(session, tenant, modality, images), **asked)


def add_study(session: Session, tenant: Tenant, modality: Modality, images: int) -> Study:
    """A study of so many images, whose objects do not exist."""
    study = Study(id=new_id("stu"), tenant_id=tenant.id, modality=modality, image_count=images)
    session.add(study)
    session.flush()
    for position in range(images):
        session.add(
            Image(
                id=new_id("img"),
                tenant_id=tenant.id,
                study_id=study.id,
                position=position,
                file_index=position,
                frame=0,
                object_key=f"{tenant.id}/{position}",
                sha256="0" * 64,
                size_bytes=1,
                media_type="image/png",
            )
        )
    session.flush()
    return study


def ask_about(
    session: Session,
    study: Study,
    *,
    priority: Priority = Priority.ROUTINE,
    classifier: Classifier = Classifier.BINARY,
    batch: Batch | None = None,
    **fields: Any,
) -> Job:
    """A queued job for a study; `fields` are fields of NewJob."""
    batch_id = batch.id if batch else None
    job = NewJob(new_id("job"), study.tenant_id, study.id, classifier, priority, batch_id=batch_id, **fields)
    states.submit(session, [job])
    return session.get_one(Job, job.id)


def add_batch(session: Session, tenant: Tenant, total: int, *, received: bool = True) -> Batch:
    """A batch of so many jobs; it is still being received unless they are all in."""
    batch = Batch(id=new_id("bat"), tenant_id=tenant.id, total=total)
    if received:
        batch.received_at = sa.func.now()
    session.add(batch)
    session.flush()
    return batch


def add_endpoint(session: Session, tenant: Tenant, url: str, events: list[str] | None = None) -> WebhookEndpoint:
    """A webhook endpoint; all events unless told otherwise."""
    endpoint = WebhookEndpoint(
        id=new_id("whe"), tenant_id=tenant.id, url=url, events=events or ["*"], secret=new_secret()
    )
    session.add(endpoint)
    session.flush()
    return endpoint


def told(database: Database) -> dict[EventType, dict[str, Any]]:
    """The bodies of the events, the last of each type."""
    with database.transaction() as session:
        events = session.scalars(sa.select(Event).order_by(Event.id)).all()
        bodies = payloads(session, events)
    return {event.type: bodies[event.id] for event in events}


def take(session: Session, worker: str = "w1", max_images: int = 16, lease: timedelta = LEASE) -> list[Claim]:
    """A worker's claim."""
    return states.claim(session, worker=worker, max_images=max_images, lease=lease, ageing=AGEING)


def answer(claim: Claim, **changes: Any) -> Outcome:
    """The claim with a result; `changes` are fields of Answer."""
    said = {"prediction": "not_covid19", "probabilities": {"covid19": 0.25, "not_covid19": 0.75}}
    heatmaps = {heatmap.image_id: {"heatmap": heatmap.id} for heatmap in changes.get("heatmaps", [])}
    images = [image | said | heatmaps.get(image["image_id"], {}) for image in _images(claim)]
    return Outcome(claim, answer=Answer(BUNDLE, images, {"total": 0.1}, **(said | changes)))


def enlarge(database: Database, images: int) -> None:
    """Give every answered study so many images, all answered but the first."""
    said = """jsonb_build_object('image_id', 'img_' || n, 'file', n, 'frame', 0,
        'prediction', CASE WHEN n > 0 THEN 'covid19' END)"""
    with database.transaction() as session:
        session.execute(sa.text(f"UPDATE studies SET image_count = {images}"))  # noqa: S608 - a number of ours
        made = f"SELECT jsonb_agg({said}) FROM generate_series(0, {images - 1}) n"  # noqa: S608 - the same
        session.execute(sa.text(f"UPDATE results SET images = ({made})"))  # noqa: S608 - the same


def refusal(claim: Claim) -> Outcome:
    """The claim as one whose images are no chest images."""
    reason = Rejection.NOT_A_CHEST_IMAGE.value
    images = [image | {"rejected": reason} for image in _images(claim)]
    outcome = ResultOutcome.REJECTED_INPUT
    return Outcome(claim, answer=Answer(BUNDLE, images, {"total": 0.1}, outcome, reason, "not a chest image"))


def _images(claim: Claim) -> list[dict[str, Any]]:
    return [{"image_id": image.id, "file": image.file, "frame": image.frame} for image in claim.images]


SUCCEEDED = EventType.JOB_SUCCEEDED.value


def wait_for_a_lock(database: Database) -> None:
    """Return once some transaction waits for another one's row; asked anew each time, as an answer is kept."""
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    deadline = time.monotonic() + EVENT_SECONDS
    while time.monotonic() < deadline:
        with database.transaction() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.05)
    raise AssertionError("nobody waits")
