"""Prepared pixels to calibrated probabilities, behind one call."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle
from shared.errors import EngineError, ModelError
from shared.networks import rebuild, tensorflow

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]


class Engine(Protocol):
    """Whatever can run a bundle's heads."""

    def predict(self, images: Pixels, heads: Collection[str]) -> dict[str, Probabilities]:
        """Probabilities (N, classes) of each asked head for prepared images (N, size, size)."""

    def warm_up(self) -> None:
        """Do now what would make the first prediction slow."""


class TensorFlowEngine:
    """A bundle on TensorFlow, on the GPU where there is one."""

    def __init__(self, bundle: Bundle, max_batch: int = 16, threads: int | None = None) -> None:
        """Load every network of the bundle. Raises ModelError when a network cannot be rebuilt from its files."""
        self._tf = tensorflow(threads)
        self._bundle = bundle
        self._max_batch = max_batch
        self._trunks = {name: self._trunk(name) for name in bundle.card.trunks}
        self._heads = {name: self._head(name) for name in bundle.heads}

    def predict(self, images: Pixels, heads: Collection[str]) -> dict[str, Probabilities]:
        """Probabilities (N, classes) of each asked head for prepared images (N, size, size).

        Each trunk that the heads need sees each image once. Raises ModelError for a head that the bundle lacks,
        ValueError for images of another shape, EngineError when the device runs out of memory or fails.
        """
        size = self._bundle.input.size
        if images.shape[1:] != (size, size) or images.dtype != np.uint8:
            raise ValueError(f"the engine takes (N, {size}, {size}) uint8, got {images.shape} {images.dtype}")
        if unknown := set(heads) - self._heads.keys():
            raise ModelError(f"model bundle {self._bundle.name} has no head {', '.join(sorted(unknown))}")
        if len(images) == 0:
            return {name: np.empty((0, len(self._bundle.heads[name].classes)), np.float32) for name in heads}
        try:
            parts = [self._predict_chunk(chunk, heads) for chunk in _chunks(images, self._max_batch)]
        except self._tf.errors.ResourceExhaustedError as error:
            raise EngineError("out of memory on the inference device") from error
        except self._tf.errors.OpError as error:
            raise EngineError("the inference device failed") from error
        return {name: np.concatenate([part[name] for part in parts]) for name in heads}

    def warm_up(self) -> None:
        """Compile every network with one blank image."""
        size = self._bundle.input.size
        self.predict(np.zeros((1, size, size), np.uint8), self._heads.keys())

    def _predict_chunk(self, images: Pixels, heads: Collection[str]) -> dict[str, Probabilities]:
        needed = {name: self._bundle.heads[name].trunks for name in heads}
        tensor = self._tf.constant(images)
        maps = {
            trunk: self._trunks[trunk](tensor) for trunk in sorted({t for trunks in needed.values() for t in trunks})
        }
        return {name: self._heads[name](*(maps[trunk] for trunk in trunks)).numpy() for name, trunks in needed.items()}

    def _trunk(self, name: str) -> Any:
        tf, size, channels = self._tf, self._bundle.input.size, self._bundle.input.channels
        network = rebuild(self._bundle, self._bundle.card.trunks[name])

        # The signature leaves the batch open, so that one compilation serves every batch size.
        @tf.function(input_signature=[tf.TensorSpec((None, size, size), tf.uint8)])  # type: ignore[untyped-decorator]
        def run(images: Any) -> Any:
            grey = tf.cast(images, tf.float32)[..., tf.newaxis]
            return network(tf.repeat(grey, channels, axis=-1), training=False)

        return run

    def _head(self, name: str) -> Any:
        tf, head = self._tf, self._bundle.heads[name]
        network = rebuild(self._bundle, head)
        shapes = [tensor.shape for tensor in network.inputs]

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32) for shape in shapes])  # type: ignore[untyped-decorator]
        def run(*maps: Any) -> Any:
            return network(list(maps) if len(maps) > 1 else maps[0], training=False)

        return run


def _chunks(images: Pixels, size: int) -> Iterator[Pixels]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
