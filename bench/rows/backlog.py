"""A queue of a million beside one of a thousand: the worker's throughput, and reading the large batch's counts."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import count

import psycopg

from bench.lab import Lab, say, until
from bench.queued import analyze, fill
from bench.report import Bar, Claim, Found, percentile, ratio, spread
from bench.thoraq import Tenant, Thoraq, one, thoraq

#: Jobs of a round, in shallow queues.
REPEATS = 20
LOOK_SECONDS = 0.01
# Times are those of the transactions; the first one's jobs only begin the clock.
RATE = """
WITH done AS (SELECT finished_at FROM jobs WHERE finished_at > %(since)s ORDER BY finished_at LIMIT %(many)s)
SELECT (count(*) FILTER (WHERE finished_at > (SELECT min(finished_at) FROM done)))
       / extract(epoch FROM max(finished_at) - min(finished_at)) FROM done
"""
DONE = "SELECT count(*) FROM jobs WHERE finished_at > %(since)s"


class Depth:
    """A stack whose worker finds at least so many jobs; `name` sets their ids apart."""

    def __init__(self, ours: Thoraq, name: str, batch_of: int = 0) -> None:
        self.ours, self.name = ours, name
        self.tenant: Tenant = ours.tenant("archive")
        for program in ("beat", "classify"):
            ours.stack.stop(program)
        with ours.database() as connection:
            self.batch_id = fill(connection, self.tenant.id, batch_of, name, batch=True)
            analyze(connection)
        self._tags = (f"{name}x{number}x" for number in count())

    def rate(self, connection: psycopg.Connection, since: datetime, step: int) -> float:
        """Jobs/s over REPEATS times `step` jobs, while as many are added as are done: the queue keeps its depth."""
        fed = 0

        def enough() -> bool:
            nonlocal fed
            done = one(connection, DONE, {"since": since})
            if fed - done <= step:
                fill(connection, self.tenant.id, step, next(self._tags))
                fed += step
            return bool(done >= step * REPEATS)

        until(enough, f"job {step * REPEATS} of the {self.name} queue", LOOK_SECONDS)
        return float(one(connection, RATE, {"since": since, "many": step * REPEATS}))


def run(lab: Lab) -> Found:
    """Two stacks, each with its own database, whose workers take turns."""
    rates: dict[str, list[float]] = {"shallow": [], "deep": []}
    reads: list[float] = []
    # They look often, as these jobs come by no way that rings.
    with (
        thoraq(lab.folder / "shallow", engine="null", poll_seconds=0.2) as one_stack,
        thoraq(lab.folder / "deep", engine="null", poll_seconds=0.2) as other,
    ):
        shallow = Depth(one_stack, "shallow")
        say(f"  queueing {lab.sizes.deep} jobs")
        deep = Depth(other, "deep", lab.sizes.deep)
        for _ in lab.rounds():
            rates["shallow"].append(_round(shallow, lab.sizes.shallow)[0])
            rate, read = _round(deep, lab.sizes.shallow, lab.sizes.reads)
            rates["deep"].append(rate)
            reads.append(read)
            say("    " + ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
    what = f"null engine, {lab.sizes.deep} queued, to {lab.sizes.shallow} queued"
    claims = [
        Claim(what, ratio(rates["deep"], rates["shallow"]), Bar(0.9)),
        Claim("batch counts read in that backlog, p99", spread(reads), Bar(20, at_most=True), "ms"),
    ]
    return Found(claims, {"jobs_per_second": {name: spread(values) for name, values in rates.items()}})


def _round(depth: Depth, step: int, reads: int = 0) -> tuple[float, float]:
    """(jobs/s, milliseconds of the slowest hundredth of the reads, which happen while the worker works)."""
    with depth.ours.database() as connection:
        since = one(connection, "SELECT now()")
        depth.ours.stack.start("classify")
        try:
            rate = depth.rate(connection, since, step)
            taken = [_read(depth) for _ in range(reads)]
        finally:
            depth.ours.stack.stop("classify")
    return rate, percentile(taken, 99) if taken else 0.0


def _read(depth: Depth) -> float:
    began = time.perf_counter()
    depth.tenant.client.batch(depth.batch_id)
    return (time.perf_counter() - began) * 1000
