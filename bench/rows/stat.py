"""Stat studies while thousands of bulk images of another tenant wait."""

from __future__ import annotations

import time
from pathlib import Path

from bench.ceiling import BATCH, ceiling
from bench.images import make_images, make_small
from bench.lab import Lab, say, until
from bench.report import Bar, Claim, Found, spread
from bench.thoraq import Thoraq, send, thoraq
from client import ClientError

WAIT_SECONDS = 30.0
#: Bulk batches that are timed before the first stat study.
BATCHES = 10


def run(lab: Lab) -> Found:
    """Each study's time over two bulk batches' time and its own inference, all measured in the same minute."""
    (files,) = make_images(lab.folder / "images", lab.sizes.studies + 1, 1)
    waiting = make_small(lab.folder / "waiting", lab.sizes.backlog_images)
    with thoraq(lab.folder / "thoraq", model_dir=lab.bundle) as ours, ceiling(lab.bundle) as alone:
        ours.count_engine_seconds()
        ours.stack.start("classify")
        ours.stack.wait_ready()
        own = [alone.run([file]).figures.seconds for file in files][1:]
        ours.classify(files[0])
        archive = ours.tenant("archive").client
        say("  filling the queue")
        batch = send(archive, waiting)
        batch_seconds = _batch_seconds(ours)
        taken = [_stat(ours, file) for file in files[1:]]
        left = archive.cancel_batch(batch.id).counts.cancelled
    if not left:
        raise ClientError("the bulk images were done before the stat studies: queue more of them")
    return _found(taken, own, batch_seconds, left)


def _stat(ours: Thoraq, file: Path) -> float:
    began = time.perf_counter()
    job = ours.client.submit([file], classifier="binary", modality="xray", priority="stat", wait=WAIT_SECONDS)
    ours.client.wait(job, WAIT_SECONDS).answer()
    return time.perf_counter() - began


def _batch_seconds(ours: Thoraq) -> float:
    """Return a bulk batch, in however many looks, from one to the next: what is not the engine's belongs to it, too."""
    before = ours.engine_seconds()
    until(lambda: ours.engine_seconds().images >= before.images + BATCHES * BATCH, "some batches' end")
    after = ours.engine_seconds()
    return (after.at - before.at) / (after.images - before.images) * BATCH


def _found(taken: list[float], own: list[float], batch: float, left: int) -> Found:
    allowed = [seconds / (2 * batch + mine) for seconds, mine in zip(taken, own, strict=True)]
    what = "stat study behind bulk images: its time over 2 batch times and its own inference"
    figures = {"seconds": spread(taken), "own_seconds": spread(own), "batch_seconds": batch, "still_waiting": left}
    return Found([Claim(what, spread(allowed), Bar(1.0, at_most=True))], figures)
