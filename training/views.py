"""What the trunks make of images and of augmented views of them, computed once and kept: heads train on these.

Of a trunk whose upper block is still to be trained, the map at the cut is kept; of a finished one, the mean over the
positions that a head's pooling takes, since heads are trained on that alone. A finished trunk's int8 files are read
too: a head that has seen both kinds of maps gives the same label on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.progress import track

from training.architectures import VGG
from training.data import SEED, Warp, augment

VIEWS = Warp(zoom=(0.92, 1.2), degrees=8, shift=0.04, contrast=0.18)
PLAIN = 2  # the image itself and its mirror image come first
BATCH = 16
#: The layer after which a trunk may be trained on labels.
CUTS = {VGG: "block4_pool"}

Kept = NDArray[np.float16]  # (views, N, h, w, channels); a finished trunk's has one position
Examined = dict[str, Kept]  # by trunk
Maps = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (N, S, S) to maps (N, h, w, channels)
Reader = Callable[[NDArray[np.uint8]], Kept]


@dataclass(frozen=True)
class Examples:
    """Kept maps by trunk, and the class number of each of the N images."""

    kept: Mapping[str, Kept]
    numbers: NDArray[np.int64]

    def batch(
        self, trunks: Sequence[str], views: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> list[NDArray[np.float32]]:
        """For each trunk the maps of these rows, each in one of its views; one with fewer views has them more often."""
        return [self.kept[trunk][views % len(self.kept[trunk]), rows].astype(np.float32) for trunk in trunks]


def views(images: NDArray[np.uint8], augmented: int) -> Iterator[NDArray[np.uint8]]:
    """The images, their mirror images, and so many rounds of augmented ones, all (N, S, S)."""
    yield images
    yield np.ascontiguousarray(images[:, :, ::-1])
    rng = np.random.default_rng([SEED, len(images)])
    for _ in range(augmented):
        yield np.stack([augment(image, rng, VIEWS, image.shape[0]) for image in images])


def keep(readers: Mapping[str, Sequence[Reader]], images: NDArray[np.uint8], augmented: int, what: str) -> Examined:
    """What each trunk's readers make of every view of `images` (N, S, S), the first reader's views first."""
    found: dict[str, list[list[Kept]]] = {name: [[] for _ in each] for name, each in readers.items()}
    rounds = track(views(images, augmented), total=PLAIN + augmented, description=f"maps: {what}")
    for seen in rounds:
        for name, each in readers.items():
            for number, read in enumerate(each):
                parts = [read(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH)]
                found[name][number].append(np.concatenate(parts))
    return {name: np.stack([kept for reader in parts for kept in reader]) for name, parts in found.items()}


def at_cut(name: str, trunk: Any) -> Reader:
    """What is kept of an unfinished trunk: its map before the block that is to be trained."""
    run = compiled(keras.Model(trunk.input, trunk.get_layer(CUTS[name]).output))
    return lambda images: run(images).astype(np.float16)


def pooled(run: Maps) -> Reader:
    """What is kept of a finished trunk."""
    return lambda images: pooled_mean(run(images)).astype(np.float16)


def whole_maps(trunk: Any) -> Maps:
    """Images (N, S, S) uint8 to the trunk's maps, a few images at a time."""
    run = compiled(trunk)

    def maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])

    return maps


def compiled(network: Any) -> Maps:
    """A network as one compiled function of grey images (N, S, S) uint8, for any N and S."""
    signature = [tf.TensorSpec((None, None, None), tf.uint8)]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run(images: Any) -> Any:
        pixels = tf.repeat(tf.cast(images, tf.float32)[..., tf.newaxis], 3, axis=-1)
        return tf.cast(network(pixels, training=False), tf.float32)

    return lambda images: np.asarray(run(tf.constant(images)))


def pooled_mean(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean (N, 1, 1, channels) over the positions that a head's 2 x 2 pooling takes of maps (N, h, w, channels)."""
    height, width = maps.shape[1] // 2 * 2, maps.shape[2] // 2 * 2
    return np.asarray(maps[:, :height, :width].mean((1, 2), keepdims=True), dtype=np.float32)
