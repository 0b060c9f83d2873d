"""How busy Thoraq keeps a GPU: one that stands in, and takes no CPU while it works."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.images import make_small
from bench.lab import TIMEOUT_SECONDS, Lab, say, until
from bench.report import Bar, Claim, Found, spread
from bench.thoraq import Thoraq, send, thoraq
from client import Batch, Client

RATE = 500
LOOK_SECONDS = 0.1
#: Of a batch's items, between which the share is taken: the pipeline is full then, and not yet running dry.
FROM, TO = 0.1, 0.9


def run(lab: Lab) -> Found:
    """Return the engine's own seconds over those that pass, with all images queued, and while they still come in."""
    shares: dict[str, list[float]] = {"queued": [], "arriving": []}
    with thoraq(lab.folder / "thoraq", engine="stand-in", stand_in_rate=RATE) as ours:
        ours.count_engine_seconds()
        archive = ours.tenant("archive").client
        for number in lab.rounds():
            files = make_small(lab.folder / str(number), lab.sizes.gpu_images, f"{number}")
            half = len(files) // 2
            shares["queued"].append(_queued(ours, archive, files[:half]))
            shares["arriving"].append(_arriving(ours, archive, files[half:]))
            say("    " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in shares.items()))
    claim = Claim(f"stand-in GPU of {RATE} images/s: share of time busy", spread(shares["queued"]), Bar(0.95))
    return Found([claim], {"busy_share": {name: spread(values) for name, values in shares.items()}})


def _queued(ours: Thoraq, client: Client, files: Sequence[Path]) -> float:
    """All images wait when the worker starts."""
    ours.stack.stop("classify")
    batch = send(client, files)
    ours.stack.start("classify")
    return _share(ours, client, batch, len(files))


def _arriving(ours: Thoraq, client: Client, files: Sequence[Path]) -> float:
    """Run with the worker up, while the API takes the ZIP in on the same cores."""
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, client, files)
        until(lambda: sending.done() or not _newest(client).done, "the batch's first images", LOOK_SECONDS)
        share = _share(ours, client, _newest(client), len(files))
        sending.result()
    return share


def _share(ours: Thoraq, client: Client, batch: Batch, total: int) -> float:
    _wait_for(client, batch, total * FROM)
    before = ours.engine_seconds()
    _wait_for(client, batch, total * TO)
    after = ours.engine_seconds()
    client.wait_batch(batch, TIMEOUT_SECONDS)
    return (after.busy - before.busy) / (after.at - before.at)


def _wait_for(client: Client, batch: Batch, done: float) -> None:
    until(lambda: client.batch(batch.id).counts.done >= done, f"answer {done:.0f} of the batch", LOOK_SECONDS)


def _newest(client: Client) -> Batch:
    """Return the one that was sent last; those before it have ended."""
    return next(client.batches(page_size=1))
