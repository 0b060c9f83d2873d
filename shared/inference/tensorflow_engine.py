"""A bundle's backbones on TensorFlow: on the GPU where there is one, and the reference for every other engine."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from shared.errors import EngineError, EngineOutOfMemory
from shared.inference.bundle import Bundle
from shared.inference.engine import (
    BackboneRunner,
    EngineName,
    FeatureMaps,
    Pixels,
    buckets,
    check_request,
    run_in_buckets,
)
from shared.inference.keras_networks import rebuild, tensorflow


class TensorFlowEngine:
    """A bundle's backbones on TensorFlow, on the GPU where there is one."""

    lanes = 1

    def __init__(self, bundle: Bundle, max_batch: int = 16, threads: int | None = None, *, half: bool = False) -> None:
        """Load every backbone; ModelError when one cannot be rebuilt from its files.

        `threads`: of the CPU; None leaves it to TensorFlow. `half`: mixed precision (float16, float32 where that
        matters), which pays on a GPU only.
        """
        self.name: EngineName = "tensorflow-float16" if half else "tensorflow"
        self._tf = tensorflow(threads)
        self._bundle = bundle
        self.max_batch, self._buckets = max_batch, buckets(max_batch)
        self._policy = "mixed_float16" if half else "float32"
        self._backbones = {name: self._backbone(name) for name in bundle.card.backbones}

    def feature_maps(
        self,
        images: Pixels,
        backbones: Collection[str],
        *,
        beside: bool = False,  # noqa: ARG002 - Engine's; there is one lane
    ) -> dict[str, FeatureMaps]:
        check_request(self._bundle, images, backbones)
        try:
            return run_in_buckets(images, {name: self._backbones[name] for name in backbones}, self._buckets)
        except (self._tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise EngineOutOfMemory from error
        except self._tf.errors.OpError as error:
            raise EngineError("the inference device failed") from error

    def warm_up(self) -> None:
        """Compile every backbone; a GPU also chooses its algorithms for every batch size, which takes it seconds."""
        size = self._bundle.input.size
        for bucket in self._buckets if self._tf.config.list_physical_devices("GPU") else self._buckets[:1]:
            self.feature_maps(np.zeros((bucket, size, size), np.uint8), self._backbones.keys())

    def _backbone(self, name: str) -> BackboneRunner:
        tf, size, channels = self._tf, self._bundle.input.size, self._bundle.input.channels
        network = rebuild(self._bundle, self._bundle.card.backbones[name], self._policy)

        # The signature leaves the batch open: one trace serves every bucket.
        @tf.function(input_signature=[tf.TensorSpec((None, size, size), tf.uint8)])  # type: ignore[untyped-decorator]
        def run(images: Any) -> Any:
            grey = tf.cast(images, tf.float32)[..., tf.newaxis]
            return tf.cast(network(tf.repeat(grey, channels, axis=-1), training=False), tf.float32)

        return lambda images: np.asarray(run(tf.constant(images)))
