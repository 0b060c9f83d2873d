"""The model, for every peer: Thoraq's own bundle, decoding and engine, so that only the system around them differs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle
from shared.engines import choose_engine
from shared.heads import HeadNetwork
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import prepare

#: Where the bundle is, told by whoever starts the peer.
BUNDLE = "BENCH_BUNDLE"
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
        row = self._network.predict(self._engine.maps(pixels[np.newaxis], self._head.trunks))[0]
        return {name: float(value) for name, value in zip(self._head.classes, row, strict=True)}
