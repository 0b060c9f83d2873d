"""What the trunks make of images and of augmented views of them, computed once and kept: heads train on these.

Of a trunk whose upper block is still to be trained, the map at the cut is kept; of a finished one, the mean over the
positions that a head's pooling takes, since heads are trained on that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Examples:
    """Kept maps by trunk, and the class number of each of the N images."""

    kept: Mapping[str, Kept]
    numbers: NDArray[np.int64]

    def batch(
        self, trunks: Sequence[str], views: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> list[NDArray[np.float32]]:
        """For each trunk the maps of these rows, each in one of its views."""
        return [
            np.stack([self.kept[trunk][view, row] for view, row in zip(views, rows, strict=True)]).astype(np.float32)
            for trunk in trunks
        ]


def views(images: NDArray[np.uint8], augmented: int) -> Iterator[NDArray[np.uint8]]:
    """The images, their mirror images, and so many rounds of augmented ones, all (N, S, S)."""
    yield images
    yield np.ascontiguousarray(images[:, :, ::-1])
    rng = np.random.default_rng([SEED, len(images)])
    for _ in range(augmented):
        yield np.stack([augment(image, rng, VIEWS, image.shape[0]) for image in images])


def keep(
    trunks: Mapping[str, Any], images: NDArray[np.uint8], augmented: int, what: str, unfinished: Collection[str] = ()
) -> dict[str, Kept]:
    """The maps of every view of `images` (N, S, S): of an unfinished trunk at its cut, else of the whole trunk."""
    runs = {name: reader(name, trunk, whole=name not in unfinished) for name, trunk in trunks.items()}
    found: dict[str, list[Kept]] = {name: [] for name in trunks}
    rounds = track(views(images, augmented), total=PLAIN + augmented, description=f"maps: {what}")
    for seen in rounds:
        for name, run in runs.items():
            parts = [run(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH)]
            found[name].append(np.concatenate(parts))
    return {name: np.stack(parts) for name, parts in found.items()}


def reader(name: str, trunk: Any, *, whole: bool) -> Callable[[NDArray[np.uint8]], Kept]:
    """Images (N, S, S) uint8 to what is kept of them."""
    run = compiled(trunk if whole else keras.Model(trunk.input, trunk.get_layer(CUTS[name]).output))
    return lambda images: (pooled_mean(run(images)) if whole else run(images)).astype(np.float16)


def whole_maps(trunk: Any) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Images (N, S, S) uint8 to the trunk's maps, a few images at a time."""
    run = compiled(trunk)

    def maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])

    return maps


def compiled(network: Any) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
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
