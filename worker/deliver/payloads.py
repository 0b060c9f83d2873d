"""The bodies of webhooks about jobs and batches, made when they are sent."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from shared.db.tables import Batch, Event, Job, Result
from shared.jobs.batch_schemas import batch_event
from shared.jobs.schemas import job_event
from shared.webhooks.schemas import WebhookPayload

JOB_PARTS = (joinedload(Job.study), joinedload(Job.result).joinedload(Result.bundle))


def payloads(session: Session, events: Collection[Event], *, labels: bool = False) -> dict[str, dict[str, Any]]:
    """Return the bodies of events by the events' ids; `labels`: with the clients' `external_id`.

    That of a job or a batch is made when it is sent, not when it happens: what ended never changes, and its body
    would be most of what the end of a job costs.
    """
    job_ids = [event.job_id for event in events if event.job_id]
    batch_ids = [event.batch_id for event in events if event.batch_id]
    jobs = session.scalars(sa.select(Job).where(Job.id.in_(job_ids)).options(*JOB_PARTS)).all() if job_ids else []
    batches = session.scalars(sa.select(Batch).where(Batch.id.in_(batch_ids))).all() if batch_ids else []
    data = {job.id: job_event(job, labels=labels) for job in jobs}
    data |= {batch.id: batch_event(batch, labels=labels) for batch in batches}
    return {event.id: event.payload or _payload(event, data[event.job_id or event.batch_id or ""]) for event in events}


def _payload(event: Event, data: dict[str, Any]) -> dict[str, Any]:
    return WebhookPayload(type=event.type, timestamp=event.created_at, data=data).model_dump(mode="json")
