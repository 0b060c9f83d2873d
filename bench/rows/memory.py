"""Memory of the API while it takes a large ZIP in, and of the worker while it classifies thousands of images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from bench.images import make_links, make_small
from bench.lab import TIMEOUT_SECONDS, Lab, say
from bench.report import Bar, Claim, Found, spread
from bench.thoraq import send, thoraq
from client import ClientError

LOOK_SECONDS = 0.2
MB = 1_000_000
#: Images of the batch that fills every cache and pool before the watch begins, of all.
WARM_UP = 20


class Peak:
    """The most that was seen since the watch began, and what it began with, in bytes."""

    def __init__(self, first: int) -> None:
        self.first = self.highest = first

    @property
    def growth_mb(self) -> float:
        """Of it."""
        return (self.highest - self.first) / MB


def run(lab: Lab) -> Found:
    """Once each: they take minutes."""
    claims = [
        Claim("API memory while a 2 GB ZIP is taken in: growth", spread([_api(lab)]), Bar(50, at_most=True), "MB"),
        Claim("worker memory over 10,000 images: growth", spread([_worker(lab)]), Bar(100, at_most=True), "MB"),
    ]
    return Found(claims, {"zip_bytes": lab.sizes.zip_bytes, "worker_images": lab.sizes.backlog_images})


def _api(lab: Lab) -> float:
    files = make_links(lab.folder / "large", lab.sizes.zip_bytes)
    with thoraq(lab.folder / "api", engine="null") as ours:
        # Several, so that every process of the API has had one.
        for number in range(WARM_UP):
            send(ours.client, make_small(lab.folder / "small", 5, f"{number}"))
        say(f"  sending a ZIP of {len(files)} members")
        with watched(lambda: ours.memory("api")) as peak:
            ours.client.wait_batch(send(ours.client, files), TIMEOUT_SECONDS)
    return peak.growth_mb


def _worker(lab: Lab) -> float:
    count = lab.sizes.backlog_images
    files = make_small(lab.folder / "many", count)
    with thoraq(lab.folder / "worker", model_dir=lab.bundle) as ours:
        ours.client.wait_batch(send(ours.client, files[: count // WARM_UP]), TIMEOUT_SECONDS)
        say(f"  classifying {count} images")
        batch = send(ours.client, files)
        with watched(lambda: ours.memory("classify")) as peak:
            ended = ours.client.wait_batch(batch, TIMEOUT_SECONDS)
    if ended.counts.succeeded != count:
        raise ClientError(f"{ended.counts.succeeded} of {count} images were answered")
    return peak.growth_mb


@contextmanager
def watched(measure: Callable[[], int]) -> Iterator[Peak]:
    """Look every LOOK_SECONDS until the end."""
    peak, ended = Peak(measure()), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            peak.highest = max(peak.highest, measure())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield peak
        finally:
            ended.set()
        looking.result()
