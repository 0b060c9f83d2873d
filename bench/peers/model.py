"""The model, for every peer: Thoraq's own bundle, decoding and engine, so that only the system around them differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.peers.environment import BUNDLE
from shared.bundle import Bundle
from shared.engines import choose_engine
from shared.heads import HeadNetwork
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import prepare

LIMITS = Limits(64_000_000, 1)


class XrayModel:
    """The binary classifier for X-rays, on `threads` cores (None: all)."""

    def __init__(self, threads: int | None = None) -> None:
        """Load and warm up; ModelError when the bundle cannot be used."""
        self._bundle = Bundle.open(Path(os.environ[BUNDLE]))
        self._head = self._bundle.head_for("binary", "xray")
        self._network = HeadNetwork.load(self._bundle, self._head)
        self._engine = choose_engine(self._bundle, threads=threads)

    def read(self, data: bytes) -> NDArray[np.uint8]:
        """A file's bytes to the (size, size) pixels that `answer` takes; ImageError when it cannot be read."""
        size = self._bundle.input.size
        return prepare(decode_one(data, LIMITS, target=size), self._bundle.input)

    def answer(self, pixels: NDArray[np.uint8]) -> dict[str, float]:
        """Probability by class."""
        return self.answers([pixels])[0]

    def answers(self, pixels: Sequence[NDArray[np.uint8]]) -> list[dict[str, float]]:
        """Probability by class of several images, which go through the engine together."""
        rows = self._network.predict(self._engine.maps(np.stack(pixels), self._head.trunks))
        return [{name: float(value) for name, value in zip(self._head.classes, row, strict=True)} for row in rows]
