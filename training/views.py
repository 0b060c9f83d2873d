"""What the backbones make of images and of augmented views of them, computed once and kept: heads train on these.

Of a backbone whose upper block is still to be trained, the map at the cut is kept; of a finished one, the mean over the
positions that a head's pooling takes, since heads are trained on that alone. A finished backbone's int8 files are read
too, and what they do to the means is exaggerated: a head that has to bear that gives the same label on both.
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
from training.data.images import SEED, Warp, augment

VIEWS = Warp(zoom=(0.92, 1.2), degrees=8, shift=0.04, contrast=0.18)
PLAIN = 2  # the image itself and its mirror image come first
BATCH = 16
#: The layer after which a backbone may be trained on labels.
CUTS = {VGG: "block4_pool"}

#: How many times what int8 does to a mean is put on top of it, and taken from it. Training with noise penalises what
#: hangs on the noise (Bishop 1995, doi 10.1162/neco.1995.7.1.108). Shown int8's means as they are, heads gave another
#: label than float32's for 0.8 % of the X-rays (three classes) and 0.9 % of the CT slices; so, for 0.4 and 0.1 %. And
#: images held out surprise them less, on both: 0.336 instead of 0.350, 0.427 instead of 0.438; 6 and 25 do less.
EXAGGERATION = 16.0

Kept = NDArray[np.float16]  # (views, N, h, w, channels); a finished backbone's has one position
Examined = dict[str, Kept]  # by backbone
FeatureExtractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (N, S, S) to maps (N, h, w, channels)
Reader = Callable[[NDArray[np.uint8]], list[Kept]]  # images to what is kept of each, in one or more readings


@dataclass(frozen=True)
class Examples:
    """Kept maps by backbone, and the class number of each of the N images."""

    kept: Mapping[str, Kept]
    numbers: NDArray[np.int64]

    def batch(
        self, backbones: Sequence[str], views: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> list[NDArray[np.float32]]:
        """Return each backbone's maps of these rows, each in one of its views; fewer views come up more often."""
        return [
            self.kept[backbone][views % len(self.kept[backbone]), rows].astype(np.float32) for backbone in backbones
        ]


def views(images: NDArray[np.uint8], augmented: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the images, their mirror images, and so many rounds of augmented ones, all (N, S, S)."""
    yield images
    yield np.ascontiguousarray(images[:, :, ::-1])
    rng = np.random.default_rng([SEED, len(images)])
    for _ in range(augmented):
        yield np.stack([augment(image, rng, VIEWS, image.shape[0]) for image in images])


def keep(readers: Mapping[str, Reader], images: NDArray[np.uint8], augmented: int, what: str) -> Examined:
    """Return what each backbone's reader makes of every view of `images` (N, S, S).

    First readings of all views come first.
    """
    found: dict[str, list[list[Kept]]] = {name: [] for name in readers}
    for seen in track(views(images, augmented), total=PLAIN + augmented, description=f"maps: {what}"):
        for name, read in readers.items():
            parts = [read(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH)]
            found[name].append([np.concatenate(reading) for reading in zip(*parts, strict=True)])
    return {name: np.concatenate([np.stack(r) for r in zip(*each, strict=True)]) for name, each in found.items()}


def at_cut(name: str, backbone: Any) -> Reader:
    """Return what is kept of an unfinished backbone: its map before the block that is to be trained."""
    run = compiled(keras.Model(backbone.input, backbone.get_layer(CUTS[name]).output))
    return lambda images: [run(images).astype(np.float16)]


def pooled(run: FeatureExtractor) -> Reader:
    """Return what is kept of a finished backbone."""
    return lambda images: [pooled_mean(run(images)).astype(np.float16)]


def beside(plain: Reader, rounded: Reader) -> Reader:
    """Return what `plain` keeps, and twice more with what `rounded` does to it, exaggerated in both directions."""

    def read(images: NDArray[np.uint8]) -> list[Kept]:
        (straight,), (other,) = plain(images), rounded(images)
        apart = EXAGGERATION * (other.astype(np.float32) - straight)
        return [straight, *((straight + sign * apart).astype(np.float16) for sign in (1, -1))]

    return read


def whole_feature_maps(backbone: Any) -> FeatureExtractor:
    """Images (N, S, S) uint8 to the backbone's maps, a few images at a time."""
    run = compiled(backbone)

    def maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])

    return maps


def compiled(network: Any) -> FeatureExtractor:
    """Return a network as one compiled function of grey images (N, S, S) uint8, for any N and S."""
    signature = [tf.TensorSpec((None, None, None), tf.uint8)]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run(images: Any) -> Any:
        pixels = tf.repeat(tf.cast(images, tf.float32)[..., tf.newaxis], 3, axis=-1)
        return tf.cast(network(pixels, training=False), tf.float32)

    return lambda images: np.asarray(run(tf.constant(images)))


def pooled_mean(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means (N, 1, 1, channels) of the places that a head's 2 x 2 pooling takes of maps (N, h, w, channels)."""
    height, width = maps.shape[1] // 2 * 2, maps.shape[2] // 2 * 2
    return np.asarray(maps[:, :height, :width].mean((1, 2), keepdims=True), dtype=np.float32)
