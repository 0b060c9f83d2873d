"""The model, for every peer: Thoraq's bundle and decoding, run by Keras as its documentation shows, or by our engine.

With Keras a peer is what a hospital would build; with Thoraq's engine, only the system around the model differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.environment import BUNDLE, OUR_ENGINE
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import prepare
from shared.inference.bundle import Bundle, Head
from shared.inference.engines import choose_engine
from shared.inference.heads import HeadNetwork
from shared.inference.keras_networks import rebuild, tensorflow

LIMITS = Limits(64_000_000, 1)
Pixels = NDArray[np.uint8]
#: Pixels (N, size, size) to probabilities (N, classes).
Predict = Callable[[Pixels], NDArray[np.float32]]


class XrayModel:
    """The binary classifier for X-rays, on `threads` cores (None: all)."""

    def __init__(self, threads: int | None = None, *, our_engine: bool | None = None) -> None:
        """Load and warm up, by default as the environment says; ModelError when the bundle cannot be used."""
        self._bundle = Bundle.open(Path(os.environ[BUNDLE]))
        self._head = self._bundle.head_for("binary", "xray")
        ours = OUR_ENGINE in os.environ if our_engine is None else our_engine
        self._predict = (_engine if ours else _keras)(self._bundle, self._head, threads)

    def read(self, data: bytes) -> Pixels:
        """Return a file's bytes to the (size, size) pixels that `answer` takes; ImageError when it cannot be read."""
        size = self._bundle.input.size
        return prepare(decode_one(data, LIMITS, target=size), self._bundle.input)

    def answer(self, pixels: Pixels) -> dict[str, float]:
        """Probability by class."""
        return self.answers([pixels])[0]

    def answers(self, pixels: Sequence[Pixels]) -> list[dict[str, float]]:
        """Probability by class of several images, which go through the network together."""
        rows = self._predict(np.stack(pixels))
        return [{name: float(value) for name, value in zip(self._head.classes, row, strict=True)} for row in rows]


def keras_network(bundle: Bundle, head: Head) -> Any:
    """Make one Keras model of a one-backbone head: (N, size, size, channels) float32 to probabilities (N, classes)."""
    import keras

    (backbone,) = (rebuild(bundle, bundle.card.backbones[name]) for name in head.backbones)
    return keras.Model(backbone.input, rebuild(bundle, head)(backbone.output))


def _keras(bundle: Bundle, head: Head, threads: int | None) -> Predict:
    """`Model.predict`, float32."""
    tensorflow(threads)
    network = keras_network(bundle, head)
    channels, size = bundle.input.channels, bundle.input.size

    def predict(images: Pixels) -> NDArray[np.float32]:
        tensors = np.repeat(images[..., np.newaxis], channels, axis=-1).astype(np.float32)
        found: NDArray[np.float32] = network.predict(tensors, verbose=0)
        return found

    predict(np.zeros((1, size, size), np.uint8))
    return predict


def _engine(bundle: Bundle, head: Head, threads: int | None) -> Predict:
    """Return the default engine of this machine."""
    network, engine = HeadNetwork.load(bundle, head), choose_engine(bundle, threads=threads).engine
    return lambda images: network.predict(engine.feature_maps(images, head.backbones))
