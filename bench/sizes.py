"""How much is measured: enough for a claim, or just enough to see that a row runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts of everything that the rows send, queue or repeat."""

    rounds: int
    #: threads or connections that send, each one image at a time
    clients: int
    #: 1024 x 1024 PNGs that each system is sent in a round
    images: int
    #: small JPEGs of a ZIP for the null engine
    archive: int
    #: jobs that are queued before the worker starts
    queued: int
    #: jobs of a deep backlog, and of a shallow one
    deep: int
    shallow: int
    #: small JPEGs of a ZIP for the stand-in GPU
    gpu_images: int
    #: small JPEGs that wait while stat studies are sent, and that the worker's memory is watched over
    backlog_images: int
    #: studies that are sent alone, or as stat
    studies: int
    #: seconds that a load generator runs
    load_seconds: int
    #: reads of a batch's counts
    reads: int
    #: bytes of the ZIP that the API's memory is watched over; the most that it takes by default
    zip_bytes: int


FULL = Sizes(
    rounds=3,
    clients=16,
    images=160,
    archive=2_000,
    queued=10_000,
    deep=1_000_000,
    shallow=1_000,
    gpu_images=6_000,
    backlog_images=10_000,
    studies=12,
    load_seconds=5,
    reads=1_000,
    zip_bytes=2_000_000_000,
)
QUICK = Sizes(
    rounds=1,
    clients=4,
    images=12,
    archive=60,
    queued=300,
    deep=3_000,
    shallow=300,
    gpu_images=300,
    backlog_images=300,
    studies=3,
    load_seconds=1,
    reads=50,
    zip_bytes=20_000_000,
)
