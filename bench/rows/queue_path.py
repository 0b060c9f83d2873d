"""From claim to committed result with its delivery row, beside a Celery worker that consumes null tasks."""

from __future__ import annotations

from bench.lab import Lab, say
from bench.peers.celery_peer import CeleryPeer
from bench.peers.environment import NULL
from bench.peers.servers import running
from bench.queued import analyze, fill
from bench.report import Bar, Claim, Found, ratio, spread
from bench.thoraq import Tenant, Thoraq, thoraq, wait_for_none
from client import ClientError

# Nobody listens there, and nobody is told: the delivery worker is stopped.
NOWHERE = "http://127.0.0.1:9/"


def run(lab: Lab) -> Found:
    """Everything is queued before the worker starts; one worker on either side, each alone on the machine."""
    rates: dict[str, list[float]] = {"celery": [], "thoraq": []}
    peer = CeleryPeer(lab.folder / "celery", lab.sizes.clients, **{NULL: "1"})
    with thoraq(lab.folder / "thoraq", engine="null") as ours, running(peer.redis):
        tenant = ours.tenant("archive")
        tenant.client.create_endpoint(NOWHERE, ["job.succeeded"])
        for name in ("beat", "deliver", "classify"):
            ours.stack.stop(name)
        for number in lab.rounds():
            rates["celery"].append(_celery(peer, lab.sizes.queued))
            rates["thoraq"].append(_thoraq(ours, tenant, lab.sizes.queued, f"round{number}"))
            say("    " + ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
    what = f"null engine, {lab.sizes.queued} queued, one worker, to a Celery worker with null tasks"
    claim = Claim(what, ratio(rates["thoraq"], rates["celery"]), Bar(4.0))
    return Found([claim], {"jobs_per_second": {name: spread(values) for name, values in rates.items()}})


def _celery(peer: CeleryPeer, count: int) -> float:
    """From the first task done to the last, so that the start of the worker is not counted."""
    peer.forget()
    peer.queue(count)
    peer.worker.start()
    try:
        peer.wait_for(count)
    finally:
        peer.worker.stop()
    finished = peer.finished_at()
    return (count - 1) / (finished[-1] - finished[0])


def _thoraq(ours: Thoraq, tenant: Tenant, count: int, tag: str) -> float:
    """From the first claim until the database has no job left that waits or runs."""
    with ours.database() as connection:
        fill(connection, tenant.id, count, tag)
        analyze(connection)
        ours.stack.start("classify")
        try:
            ended = wait_for_none(connection)
        finally:
            ours.stack.stop("classify")
        mine = {"mine": f"job_{tag}%"}
        row = connection.execute(
            "SELECT extract(epoch FROM min(started_at)), (SELECT count(*) FROM events JOIN deliveries d"
            " ON d.event_id = events.id WHERE job_id LIKE %(mine)s) FROM jobs WHERE id LIKE %(mine)s",
            mine,
        ).fetchone()
    if row is None or row[1] != count:
        raise ClientError(f"{row and row[1]} delivery rows for {count} jobs")
    return count / (ended - float(row[0]))
