"""Every request ever answered against every row of the database and every webhook that was accepted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tests.chaos.clients import Fate
from tests.chaos.faults import Strike, runs_jobs
from tests.chaos.pictures import brightness
from tests.chaos.plan import Ask
from tests.chaos.receiver import Receiver

TERMINAL = {"succeeded", "failed", "cancelled", "quarantined"}
#: Probabilities of one image may differ by this much between batches of different sizes: floating point.
TOLERANCE = 0.01

Identity = tuple[str, tuple[str, ...]]

JOBS = sa.text("""
    SELECT j.id, coalesce(b.external_id, j.external_id) AS key, j.state, j.classifier, j.created_at, j.finished_at,
        j.error, r.prediction, r.probabilities,
        (SELECT array_agg(sha256 ORDER BY file_index) FROM images WHERE study_id = j.study_id AND frame = 0) AS files,
        (SELECT count(*) FROM results WHERE job_id = j.id) AS results,
        (SELECT count(*) FROM events WHERE job_id = j.id) AS events
    FROM jobs j LEFT JOIN batches b ON b.id = j.batch_id LEFT JOIN results r ON r.job_id = j.id
""")
BATCHES = sa.text("""
    SELECT b.id, b.external_id AS key, b.completed_at, count(e.id) AS events
    FROM batches b LEFT JOIN events e ON e.batch_id = b.id GROUP BY b.id
""")
DELIVERIES = sa.text("""
    SELECT e.id AS event_id, w.description AS endpoint, d.state, d.attempt_count, d.created_at, d.finished_at
    FROM events e CROSS JOIN webhook_endpoints w
    LEFT JOIN deliveries d ON d.event_id = e.id AND d.endpoint_id = w.id
""")


@dataclass(frozen=True)
class Known:
    """The right answer to what is asked."""

    predictions: Set[str]
    probabilities: Mapping[str, float]

    def agrees(self, job: JobRow) -> bool:
        found = job.probabilities or {}
        return job.prediction in self.predictions and all(
            abs(found.get(name, 2) - p) <= TOLERANCE for name, p in self.probabilities.items()
        )


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job, with its result if there is one, and how many results and events it has."""

    id: str
    key: str | None
    state: str
    classifier: str
    files: Sequence[str]
    created_at: datetime
    finished_at: datetime | None
    error: Mapping[str, Any] | None
    prediction: str | None
    probabilities: Mapping[str, float] | None
    results: int
    events: int

    @property
    def identity(self) -> Identity:
        return self.classifier, tuple(self.files)


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """A batch, and how many events it has."""

    id: str
    key: str | None
    completed_at: datetime | None
    events: int


@dataclass(frozen=True, kw_only=True)
class DeliveryRow:
    """An event and an endpoint, with the delivery between the two; without one, its fields are None."""

    event_id: str
    endpoint: str
    state: str | None
    attempt_count: int | None
    created_at: datetime | None
    finished_at: datetime | None


@dataclass
class Rows:
    """The database as it is."""

    jobs: Sequence[JobRow]
    batches: Sequence[BatchRow]
    deliveries: Sequence[DeliveryRow]

    @classmethod
    def read(cls, database: sa.Engine) -> Rows:
        with database.connect() as connection:
            return cls(
                [JobRow(**row) for row in connection.execute(JOBS).mappings()],
                [BatchRow(**row) for row in connection.execute(BATCHES).mappings()],
                [DeliveryRow(**row) for row in connection.execute(DELIVERIES).mappings()],
            )


@dataclass
class Findings:
    """What broke the promise, in sentences; all empty when it holds."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    undelivered: dict[str, list[str]] = field(default_factory=dict)
    unverified: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        undelivered = [text for texts in self.undelivered.values() for text in texts]
        return self.lost + self.doubled + self.wrong + undelivered + self.unverified + self.unanswered


def examine(
    fates: Sequence[Fate], rows: Rows, known: Mapping[Identity, Known], receivers: Sequence[Receiver]
) -> Findings:
    """Everything that is wrong."""
    findings = Findings()
    by_key: dict[str | None, list[JobRow]] = defaultdict(list)
    for job in rows.jobs:
        by_key[job.key].append(job)
    for fate in fates:
        _examine_request(findings, fate, by_key[fate.submission.key], rows)
    _examine_rows(findings, rows, known)
    for receiver in receivers:
        findings.undelivered[receiver.name] = list(_undelivered(rows, receiver))
        findings.doubled += [f"{job}: told as {sorted(ids)}" for job, ids in receiver.told.items() if len(ids) > 1]
        findings.unverified += [f"{receiver.name} refused a signature"] * receiver.unverified
    return findings


def _examine_request(findings: Findings, fate: Fate, jobs: Sequence[JobRow], rows: Rows) -> None:
    submission = fate.submission
    if not fate.answered:
        findings.unanswered.append(f"{submission.key}: {fate.refusal or 'no answer'} after {fate.failures} failures")
        return
    there = {batch.id for batch in rows.batches} if submission.batch else {job.id for job in jobs}
    findings.lost += [f"{submission.key}: {gone} was answered and is no row" for gone in fate.ids - there]
    findings.lost += [f"{job.id} ({submission.key}) is {job.state}" for job in jobs if job.state not in TERMINAL]
    findings.lost += [f"{submission.key}: a job is missing"] * (len(submission.asks) - len(jobs))
    batches = [batch.id for batch in rows.batches if batch.key == submission.key]
    if len(jobs) > len(submission.asks) or len(fate.ids) > 1 or len(batches) > 1:
        findings.doubled.append(f"{submission.key}: {len(jobs)} jobs, batches {batches}, answered {sorted(fate.ids)}")
    if Counter(job.identity for job in jobs) != Counter(ask.identity for ask in submission.asks):
        findings.wrong.append(f"{submission.key}: its jobs are not over what was sent")
    if fate.cancelled and not submission.batch and any(job.state != "cancelled" for job in jobs):
        findings.wrong.append(f"{submission.key}: {jobs[0].state} after its cancellation was answered with 200")


def _examine_rows(findings: Findings, rows: Rows, known: Mapping[Identity, Known]) -> None:
    for job in rows.jobs:
        if job.results > 1 or job.events > 1:
            findings.doubled.append(f"{job.id}: {job.results} results, {job.events} events")
        if (job.state == "succeeded") != (job.results == 1):
            findings.wrong.append(f"{job.id}: {job.state} with {job.results} results")
        elif job.results and not known[job.identity].agrees(job):
            findings.wrong.append(f"{job.id}: {job.prediction} {job.probabilities}, not {known[job.identity]}")
    findings.doubled += [f"{batch.id}: {batch.events} events" for batch in rows.batches if batch.events > 1]


def _undelivered(rows: Rows, receiver: Receiver) -> Iterable[str]:
    """Ends without an event, and events that the receiver never accepted or that are not noted as delivered."""
    yield from (f"{job.id} is {job.state} without an event" for job in rows.jobs if _silent(job))
    yield from (
        f"{batch.id} ended without an event" for batch in rows.batches if batch.completed_at and not batch.events
    )
    for delivery in rows.deliveries:
        if delivery.endpoint != receiver.name:
            continue
        accepted = receiver.accepted[delivery.event_id]
        if delivery.state != "delivered" or not accepted:
            tries = f"{delivery.attempt_count} attempts noted, {accepted} accepted"
            yield f"{delivery.event_id} to {receiver.name}: {delivery.state}, {tries}"


def _silent(job: JobRow) -> bool:
    return job.state in TERMINAL and not job.events


def known_of(asks: Sequence[Ask]) -> dict[Identity, Known]:
    """What the stand-in says of pictures: see `pictures.brightness`; their files are named after their numbers."""
    return {ask.identity: _known(ask.classifier, brightness(int(ask.files[0].stem))) for ask in asks}


def _known(classifier: str, covid19: float) -> Known:
    rest = ("not_covid19",) if classifier == "binary" else ("normal", "pneumonia")
    shares = {"covid19": covid19} | {name: (1 - covid19) / len(rest) for name in rest}
    likeliest = max(shares.values())
    return Known({name for name, share in shares.items() if share == likeliest}, shares)


def recoveries(strikes: Sequence[Strike], rows: Rows, flaky: str) -> dict[str, float]:
    """The longest recovery in seconds of each kind of fault; see `_recovery`."""
    longest: dict[str, float] = defaultdict(float)
    later: dict[str, str] = {}
    for strike in sorted(strikes, key=lambda strike: strike.began, reverse=True):
        # A job that was taken up again and then hit once more had recovered, until then, from the first fault.
        mine = {job: token for job, token in strike.running.items() if later.get(job, token) == token}
        seconds = _recovery(replace(strike, running=mine), rows, flaky)
        longest[strike.fault.name] = max(longest[strike.fault.name], seconds)
        if runs_jobs(strike.fault.victim):
            later = {**strike.running, **later}
    return dict(longest)


def _recovery(strike: Strike, rows: Rows, flaky: str) -> float:
    """Of what runs jobs: from the fault to the end of the last job that it hit, 0 without one. Of the receiver: from
    its being well again to the last delivery that waited for it. Of the API and the deliverer: to the next job
    accepted, the next delivery made. Of everything else: to the next end of a job.
    """
    victim, ends = strike.fault.victim, {job.id: job.finished_at for job in rows.jobs}
    if victim == "receiver":
        well = strike.ended or strike.began
        waited = [
            d.finished_at for d in rows.deliveries if d.endpoint == flaky and d.created_at and d.created_at < well
        ]
        return _last(well, waited)
    if runs_jobs(victim):
        return _last(strike.began, [ends.get(job) for job in strike.running])
    if victim == "api":
        return _next(strike.began, [job.created_at for job in rows.jobs])
    if victim == "deliver":
        return _next(strike.began, [delivery.finished_at for delivery in rows.deliveries])
    return _next(strike.began, ends.values())


def _last(since: datetime, moments: Iterable[datetime | None]) -> float:
    return max([0.0, *((moment - since).total_seconds() for moment in moments if moment)])


def _next(since: datetime, moments: Iterable[datetime | None]) -> float:
    return min(((moment - since).total_seconds() for moment in moments if moment and moment > since), default=0.0)
