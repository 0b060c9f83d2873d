"""Two tenants of very different size in one class: the small one's share while both wait."""

from __future__ import annotations

from bench.lab import Lab
from bench.queued import analyze, fill
from bench.report import Bar, Claim, Found, spread
from bench.thoraq import one, thoraq, wait_for_none

SMALL = 100
# Up to the small tenant's last claim, which takes what is left of it and fills up with the other's.
SHARE = """
SELECT count(*) FILTER (WHERE tenant_id = %(small)s)::float / count(*) FROM jobs
WHERE id LIKE %(mine)s AND started_at < (
    SELECT max(started_at) FROM jobs WHERE id LIKE %(mine)s AND tenant_id = %(small)s
)
"""


def run(lab: Lab) -> Found:
    """Both are queued, the large one first, before the worker starts."""
    shares = []
    with thoraq(lab.folder / "thoraq", engine="null") as ours:
        large, small = ours.tenant("large"), ours.tenant("small")
        for number in lab.rounds():
            ours.stack.stop("classify")
            with ours.database() as connection:
                fill(connection, large.id, lab.sizes.queued, f"round{number}large")
                fill(connection, small.id, SMALL, f"round{number}small")
                analyze(connection)
                ours.stack.start("classify")
                wait_for_none(connection)
                values = {"small": small.id, "mine": f"job_round{number}%"}
                shares.append(float(one(connection, SHARE, values)))
    what = f"{SMALL} jobs of one tenant beside {lab.sizes.queued} of another: its share while both wait"
    return Found([Claim(what, spread(shares), Bar(0.45))])
