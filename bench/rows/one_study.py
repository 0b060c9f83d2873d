"""One study and nothing else running: what the system adds to decoding and engine."""

from __future__ import annotations

import time

from bench.ceiling import ceiling
from bench.images import make_images
from bench.lab import Lab
from bench.report import Bar, Claim, Found, spread
from bench.thoraq import thoraq


def run(lab: Lab) -> Found:
    """Submit to result (`Prefer: wait`), in turn with the bare engine; the first of each is not counted."""
    (files,) = make_images(lab.folder / "images", lab.sizes.studies * lab.sizes.rounds + 1, 1)
    ours, bare = [], []
    with thoraq(lab.folder / "thoraq", model_dir=lab.bundle) as system, ceiling(lab.bundle) as alone:
        for file in files:
            began = time.perf_counter()
            system.classify(file)
            ours.append(time.perf_counter() - began)
            bare.append(alone.run([file]).figures.seconds)
    more = spread([(this - that) * 1000 for this, that in zip(ours[1:], bare[1:], strict=True)])
    claim = Claim("one study alone, more than decoding and engine", more, Bar(60, at_most=True), "ms")
    return Found([claim], {"seconds": spread(ours[1:]), "bare_seconds": spread(bare[1:])})
