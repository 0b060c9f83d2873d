"""Authenticated polls beside a bare Flask route on the same server with the same settings."""

from __future__ import annotations

import httpx

from bench import http_load
from bench.images import make_small
from bench.lab import Lab, say
from bench.peers.servers import Web, running
from bench.queued import analyze, fill
from bench.report import Bar, Claim, Found, ratio, spread
from bench.thoraq import Thoraq, one, thoraq
from client import ClientError

BARS = {"queued": 0.12, "finished": 0.3, "304": 0.3}
BARE = "bench.peers.bare_app:create_app"


def run(lab: Lab) -> Found:
    """Measure requests a second of each, in turn; the queued job has a thousand others before it."""
    rates: dict[str, list[float]] = {name: [] for name in ("bare", *BARS)}
    with thoraq(lab.folder / "thoraq", engine="null") as ours, running(bare := _bare(ours, lab)):
        asked = {"bare": (f"{bare.url}/healthz", {}), **_polls(ours, lab)}
        for _ in lab.rounds():
            for name, (url, headers) in asked.items():
                rates[name].append(http_load.get(url, lab, headers).requests_per_second)
            say("    " + ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
    claims = [
        Claim(f"polls ({name}) to a bare Flask route", ratio(rates[name], rates["bare"]), Bar(bar))
        for name, bar in BARS.items()
    ]
    return Found(claims, {"requests_per_second": {name: spread(values) for name, values in rates.items()}})


def _bare(ours: Thoraq, lab: Lab) -> Web:
    """Return the API's own command line, with another application and another port."""
    _python, _module, *arguments = ours.stack.children["api"].command()
    port = ours.stack.url.rpartition(":")[2]
    changed = ["{port}" if part == port else BARE if part == "api:create_app" else part for part in arguments]
    return Web("bare", changed, lab.folder / "bare.log")


def _polls(ours: Thoraq, lab: Lab) -> dict[str, tuple[str, dict[str, str]]]:
    """URL and headers of each kind of poll."""
    key = {"Authorization": f"Bearer {ours.stack.key}"}
    (file,) = make_small(lab.folder / "small", 1)
    finished = ours.client.submit([file], classifier="binary", modality="xray", wait=30)
    ours.stack.stop("classify")
    with ours.database() as connection:
        tenant = one(connection, "SELECT tenant_id FROM jobs WHERE id = %(job)s", {"job": finished.id})
        fill(connection, tenant, lab.sizes.shallow, "waiting")
        analyze(connection)
    ended, waits = (f"{ours.stack.url}/v1/jobs/{name}" for name in (finished.id, f"job_waiting{lab.sizes.shallow:08}"))
    known = {**key, "If-None-Match": _tag(ended, key)}
    if httpx.get(ended, headers=known).status_code != 304:
        raise ClientError("a poll that names the answer it has is answered in full")
    return {"queued": (waits, key), "finished": (ended, key), "304": (ended, known)}


def _tag(url: str, key: dict[str, str]) -> str:
    answer = httpx.get(url, headers=key).raise_for_status()
    if answer.json()["status"] != "succeeded":
        raise ClientError("the job that polls ask for is not finished")
    return answer.headers["ETag"]
