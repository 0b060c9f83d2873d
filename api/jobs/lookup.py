"""A job looked up for a client: its place in line, waiting for its end, and what is remembered once it is terminal.

A terminal job never changes, so a process keeps its answer ready for a few seconds, for its tenant alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa
from flask import request

from api.http.handover import hand_over_wait
from api.http.prefer import wait_of
from api.http.principal import Principal, principal
from api.http.responses import Answer, answer_of
from api.http.services import Services
from shared.db.lookup import existing
from shared.db.tables import Job, JobState, Priority
from shared.jobs import reads
from shared.jobs.new_jobs import NewJob
from shared.jobs.scheduling import InLine, place_in_line
from shared.jobs.schemas import JobEnvelope, job_envelope

#: How often one who waits looks by himself, should a notification be lost.
LOOK_SECONDS = 1.0
#: A place in line is as old as this at most.
PLACE_SECONDS = 1.0


def read_job(service: Services, who: Principal, job_id: str) -> JobEnvelope:
    """Read the tenant's job as clients see it, with its place in line while it is queued; NotFound otherwise."""
    with service.database.single() as connection:
        job = existing(reads.read(connection, who.tenant_id, job_id), "job")
    envelope = job_envelope(job)
    if job.state is JobState.QUEUED:
        envelope.position, envelope.estimated_wait_seconds = _place(service, job, job.id)
    return envelope


def _place(service: Services, job: Job | InLine, *remembered_as: str) -> tuple[int, float | None]:
    """Look up a queued job's position and estimated wait in seconds, or remember them from a moment ago."""
    found = service.places.get(*remembered_as)
    if found is None:
        with service.database.single() as connection:
            found = place_in_line(connection, job)
        service.places.put(*remembered_as, value=found, seconds=PLACE_SECONDS)
    return found


def place_of_newcomer(
    service: Services, job: NewJob, served_as: Priority, queued_at: datetime
) -> tuple[int, float | None]:
    """Return the same of a job that was queued now; newcomers of one priority share what one of them found."""
    stands = InLine(job.tenant_id, served_as.rank, queued_at, job.id)
    return _place(service, stands, "newcomer", served_as)


def find_line(service: Services, job: NewJob) -> Priority:
    """Return the priority that a job that was queued now is served as; nobody but the database knows that of stat."""
    if job.priority is not Priority.STAT:
        return job.priority
    with service.database.single() as connection:
        rank = connection.scalar(sa.select(Job.rank).where(Job.id == job.id))
    return job.priority if rank is None else Priority.of_rank(rank)


def look(service: Services, who: Principal, job_id: str) -> Answer:
    """Return the tenant's job as it is now; NotFound if it has none of this id."""
    known = service.finished.get(who.tenant_id, job_id)
    if known is not None:
        return known
    found = answer_of(read_job(service, who, job_id))
    if found.terminal:
        seconds = service.settings.finished_seconds
        service.finished.put(who.tenant_id, job_id, value=found, seconds=seconds, size=len(found.body))
    return found


def wait_seconds(service: Services) -> float:
    """Return what `Prefer: wait=N` asks for, within the limit; 0 without it."""
    return min(wait_of(request.headers.getlist("Prefer")) or 0, service.settings.max_wait_seconds)


def wait_for(service: Services, awaited: str, look_at: Callable[[], Answer], seconds: float) -> Answer:
    """Return what there is to see of this job or batch, once it is terminal or the time is over.

    Without a slot it returns at once.

    Where the server's edge waits, it has what there is now, and looks again by itself.
    """
    found = look_at()
    if found.terminal or not seconds:
        return found
    if hand_over_wait(awaited, look_at, seconds):
        return found
    with service.streams.slot(principal().tenant_id) as granted:
        return _when_terminal(service, awaited, look_at, seconds) if granted else found


def _when_terminal(service: Services, awaited: str, look_at: Callable[[], Answer], seconds: float) -> Answer:
    until = time.monotonic() + seconds
    with service.listener.expecting(awaited) as ended:
        while not (found := look_at()).terminal and (left := until - time.monotonic()) > 0:
            ended.wait(min(left, LOOK_SECONDS))
    return found
