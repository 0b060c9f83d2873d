"""Without a model: what submissions and a ZIP cost in Thoraq, where they are durable, and in Celery, where not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bench.http_load import Body, post
from bench.images import make_small, small_jpegs
from bench.lab import Lab, say
from bench.peers.celery_peer import CeleryPeer
from bench.peers.environment import NULL
from bench.peers.servers import running
from bench.report import Bar, Claim, Found, ratio, spread
from bench.thoraq import Bulk, Thoraq, one, thoraq

RESULTS = "SELECT count(*) FROM results"


def run(lab: Lab) -> Found:
    """Jobs a second, from the first byte sent until no job is left; both sides in every round."""
    peer = CeleryPeer(lab.folder / "celery", lab.sizes.clients, **{NULL: "1"})
    rates: dict[str, list[float]] = {"celery": [], "thoraq": [], "zip": []}
    with thoraq(lab.folder / "thoraq", engine="null") as ours, running(peer.redis), running(peer.worker, peer.web):
        archive = Bulk(ours.tenant("archive").client)
        archive.run(make_small(lab.folder / "warm-up", 50, "warm-up"))
        for number in lab.rounds():
            rates["celery"].append(_celery(peer, lab))
            rates["thoraq"].append(_single(ours, lab))
            rates["zip"].append(_zip(archive, make_small(lab.folder / str(number), lab.sizes.archive, str(number))))
            say("    " + ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
    single, bulk = (ratio(rates[name], rates["celery"]) for name in ("thoraq", "zip"))
    claims = [
        Claim("null engine, single submissions, durable, to ordinary Celery", single, Bar(1.0)),
        Claim(f"null engine, ZIP of {lab.sizes.archive} JPEGs, to ordinary Celery", bulk, Bar(5.0)),
    ]
    return Found(claims, {"jobs_per_second": {name: spread(values) for name, values in rates.items()}})


def _celery(peer: CeleryPeer, lab: Lab) -> float:
    peer.forget()
    began = time.perf_counter()
    post(f"{peer.web.url}/jobs", _body("file"), lab)
    done = peer.wait_idle()
    return done / (time.perf_counter() - began)


def _single(ours: Thoraq, lab: Lab) -> float:
    with ours.database() as connection:
        before = one(connection, RESULTS)
        began = time.perf_counter()
        post(f"{ours.stack.url}/v1/jobs", _body("files"), lab, key=ours.stack.key)
        ours.wait_idle()
        seconds = time.perf_counter() - began
        return float((one(connection, RESULTS) - before) / seconds)


def _zip(archive: Bulk, files: Sequence[Path]) -> float:
    return archive.run(files).figures.images_per_second


def _body(field: str) -> Body:
    (jpeg,) = small_jpegs(1, "single")
    return Body(field, jpeg, {"classifier": "binary", "modality": "xray"})
