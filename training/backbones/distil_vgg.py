"""The VGG16's last block learns, without labels, to find what EfficientNet-Lite2 sees: a head reads its map alone.

Its weights come from an edge detector's network, whose fifth block had little to say about a chest: patient-wise
logistic regression on the means of its map is right on 77 % of the X-rays (three classes), on those of the teacher's
levels on 86 %. So the block is trained until a 1 x 1 convolution finds those in its map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from training.architectures import VGG
from training.backbones.distil import levels
from training.data.images import SEED
from training.heads.learner import upper
from training.views import BATCH, CUTS, views

AUGMENTED = 1  # views of each image, beside the image and its mirror image
STEP = 32  # images
BLOCK_RATE, FINDER_RATE = 1e-4, 2e-3
# A head pools the map: that its mean is right counts more than each position.
MEAN_WEIGHT = 4.0


def distil_vgg(
    backbone: Any, teacher: Any, images: NDArray[np.uint8], epochs: int, report: Callable[[str], None]
) -> None:
    """Train the last block of `backbone` in place on views of `images` (N, S, S)."""
    keras.utils.set_random_seed(SEED)
    at_cut, targets = examples(backbone, teacher, images)
    block = upper(backbone, CUTS[VGG])
    finder = layers.Conv2D(targets.shape[-1], 1, dtype="float32")
    network = keras.Model(block.input, finder(standardised(block, at_cut)))
    steps = epochs * len(at_cut) // STEP
    step = training_step(network, block, finder, targets, steps)
    rng, order = np.random.default_rng(SEED), np.empty(0, np.int64)
    for number in range(1, steps + 1):
        if len(order) < STEP:
            order = rng.permutation(len(at_cut))
        rows, order = order[:STEP], order[STEP:]
        distance = float(step(tf.constant(at_cut[rows], tf.float32), tf.constant(targets[rows], tf.float32)))
        if number % 50 == 0 or number == steps:
            report(f"distil_vgg: step {number}/{steps}, unexplained variance {distance:.3f}")


def examples(backbone: Any, teacher: Any, images: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Feature maps before the last block (M, h, w, channels), and the levels that are to be found in its output."""
    before = keras.Model(backbone.input, backbone.get_layer(CUTS[VGG]).output)
    coarse = keras.Model(teacher.input, levels(teacher).outputs[1])

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.uint8)])  # type: ignore[untyped-decorator]
    def run(batch: Any) -> tuple[Any, Any]:
        pixels = tf.repeat(tf.cast(batch, tf.float32)[..., tf.newaxis], 3, axis=-1)
        cut, wanted = before(pixels, training=False), coarse(pixels, training=False)
        return tf.cast(cut, tf.float32), tf.cast(wanted, tf.float32)

    seen = np.concatenate(list(views(images, AUGMENTED)))
    found = [run(tf.constant(seen[start : start + BATCH])) for start in range(0, len(seen), BATCH)]
    cuts, wanted = zip(*found, strict=True)
    return tuple(np.concatenate([np.asarray(part, np.float16) for part in parts]) for parts in (cuts, wanted))  # type: ignore[return-value]


def standardised(block: Any, at_cut: NDArray[np.float16]) -> Any:
    """Return the block's output, scaled by what it is before training: raw maps reach hundreds."""
    some = block.predict(at_cut[:: max(1, len(at_cut) // 300)].astype(np.float32), batch_size=BATCH, verbose=0)
    mean, deviation = some.astype(np.float32).mean((0, 1, 2)), some.astype(np.float32).std((0, 1, 2))
    return layers.Normalization(mean=mean, variance=np.square(deviation + 0.1 * deviation.mean()), dtype="float32")(
        block.output
    )


def training_step(network: Any, block: Any, finder: Any, targets: NDArray[np.float16], steps: int) -> Any:
    """Compile the step: maps at the cut and their levels in, mean squared error of the standardised levels out."""
    some = targets[:: max(1, len(targets) // 300)].astype(np.float32)
    mean, deviation = some.mean((0, 1, 2)), some.std((0, 1, 2))
    # A channel that never fires here would be divided by zero.
    deviation = deviation + 0.01 * deviation.mean()
    parts = [(_optimizer(BLOCK_RATE, steps), block), (_optimizer(FINDER_RATE, steps), finder)]
    variables = [part.trainable_variables for _, part in parts]

    @tf.function  # type: ignore[untyped-decorator]
    def step(maps: Any, wanted: Any) -> Any:
        with tf.GradientTape() as tape:
            error = network(maps, training=True) - (wanted - mean) / deviation
            distance = tf.reduce_mean(tf.square(error))
            loss = distance + MEAN_WEIGHT * tf.reduce_mean(tf.square(tf.reduce_mean(error, (1, 2))))
        for (optimizer, _), gradients, theirs in zip(parts, tape.gradient(loss, variables), variables, strict=True):
            optimizer.apply_gradients(zip(gradients, theirs, strict=True))
        return distance

    return step


def _optimizer(rate: float, steps: int) -> Any:
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 20, steps, warmup_target=rate, warmup_steps=steps // 12, alpha=0.01
    )
    return keras.optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=1.0)
