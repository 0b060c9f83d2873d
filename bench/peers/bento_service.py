"""Peer: a BentoML service with adaptive batching. The request is the queue; what is under way dies with the process."""

from __future__ import annotations

from pathlib import Path

import bentoml

from bench.peers.model import XrayModel


@bentoml.service(traffic={"timeout": 120})
class Xrays:
    """One worker with the model, which uses every core."""

    def __init__(self) -> None:
        self._model = XrayModel()

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)
    def classify(self, files: list[Path]) -> list[dict[str, float]]:
        """Return the files of many requests, as BentoML has put them together."""
        return self._model.answers([self._model.read(file.read_bytes()) for file in files])
