"""Without a model: what submissions and a ZIP cost in Thoraq, where they are durable, and in Celery, where not.

Submissions are sent by `wrk` on both sides. A ZIP is a client's whole errand, from its first byte to the last result in
its hands; so is what it is compared with: the same files sent one by one from as many threads as there are clients, and
each result asked for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from bench.http_load import Body, post
from bench.images import make_small, small_jpegs
from bench.lab import Lab, say
from bench.peers.celery_peer import CeleryPeer
from bench.peers.environment import NULL
from bench.peers.servers import running
from bench.peers.systems import TIMEOUT_SECONDS, OrdinaryCelery
from bench.report import Bar, Claim, Found, ratio, spread
from bench.thoraq import Bulk, Thoraq, one, thoraq

RESULTS = "SELECT count(*) FROM results"


def run(lab: Lab) -> Found:
    """Jobs a second, from the first byte sent until no job is left; both sides in every round."""
    peer = CeleryPeer(lab.folder / "celery", lab.sizes.clients, **{NULL: "1"})
    rates: dict[str, list[float]] = {name: [] for name in ("celery", "thoraq", "celery errand", "zip errand")}
    with thoraq(lab.folder / "thoraq", engine="null") as ours, running(peer.redis), running(peer.worker, peer.web):
        archive = Bulk(ours.tenant("archive").client)
        archive.run(make_small(lab.folder / "warm-up", 50, "warm-up"))
        for number in lab.rounds():
            files = make_small(lab.folder / str(number), lab.sizes.archive, str(number))
            rates["celery"].append(_celery(peer, lab))
            rates["thoraq"].append(_single(ours, lab))
            rates["celery errand"].append(_celery_errand(peer, files, lab.sizes.clients))
            rates["zip errand"].append(archive.run(files).figures.images_per_second)
            say("    " + ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
    single = ratio(rates["thoraq"], rates["celery"])
    bulk = ratio(rates["zip errand"], rates["celery errand"])
    claims = [
        Claim("null engine, single submissions, durable, to ordinary Celery", single, Bar(1.0)),
        Claim(f"null engine, ZIP of {lab.sizes.archive} JPEGs, to ordinary Celery", bulk, Bar(5.0)),
    ]
    ratios = {"a ZIP's errand to Celery's rate without its clients": ratio(rates["zip errand"], rates["celery"])}
    return Found(
        claims, {"jobs_per_second": {name: spread(values) for name, values in rates.items()}, "ratios": ratios}
    )


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


def _celery_errand(peer: CeleryPeer, files: Sequence[Path], clients: int) -> float:
    """All sent, and then all asked for: who waits for each answer before it sends the next waits for polls alone."""
    with httpx.Client(base_url=peer.web.url, timeout=TIMEOUT_SECONDS) as http, ThreadPoolExecutor(clients) as pool:
        celery = OrdinaryCelery(http)
        began = time.perf_counter()
        sent = list(pool.map(celery.submit, files))
        list(pool.map(celery.wait, sent))
        return len(files) / (time.perf_counter() - began)


def _body(field: str) -> Body:
    (jpeg,) = small_jpegs(1, "single")
    return Body(field, jpeg, {"classifier": "binary", "modality": "xray"})
