"""Dense feature distillation: a DenseNet201 learns to see what a pretrained VGG16 sees, without labels.

Where no pretrained DenseNet201 is at hand, a few hundred images are far too few to train one on labels. But they
hold hundreds of thousands of image regions, and for each of them the VGG16 knows a rich answer: the student's
stride-16 and stride-32 maps regress the VGG16's block4 and block5 pools through 1 x 1 convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from shared.errors import ConfigError
from training.data import SEED, Warp, augment
from training.progress import Progress

VIEW = 128  # pixels; small views at serving scale cost a third of whole images
BATCH = 16
# From the whole image seen small to a part of it seen large, around the scale of serving (1.0).
VIEWS = Warp(zoom=(0.65, 1.25), degrees=10, shift=0.0, contrast=0.2)
PEAK_RATE = 2e-3
# The default of 0.99 is too slow for some 70 steps an epoch.
BATCH_NORM_MOMENTUM = 0.9


def distil(
    student: Any, teacher: Any, images: NDArray[np.uint8], epochs: int, checkpoint: Path, report: Callable[[str], None]
) -> None:
    """Train `student` on unlabelled images (N, S, S); resumes from and writes `checkpoint` after each epoch."""
    if len(images) < BATCH:
        raise ConfigError(f"distillation needs at least {BATCH} training images, got {len(images)}")
    set_momentum(student, BATCH_NORM_MOMENTUM)
    teaching = keras.Model(teacher.input, [teacher.get_layer("block4_pool").output, teacher.output])
    learning = with_regressors(student)
    steps = len(images) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        PEAK_RATE / 20, epochs * steps, warmup_target=PEAK_RATE, warmup_steps=epochs * steps // 10, alpha=0.01
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-2, clipnorm=1.0)
    progress = Progress(learning, optimizer, checkpoint)
    if progress.done >= epochs:
        return
    step = training_step(learning, teaching, optimizer, *teacher_statistics(teaching, images))
    for epoch in range(progress.done, epochs):
        rng = np.random.default_rng([SEED, epoch])
        losses = [float(step(tf.constant(batch))) for batch in batches(images, rng)]
        progress.save(epoch + 1)
        report(f"distil: epoch {epoch + 1}/{epochs}, unexplained variance {np.mean(losses):.3f}")


def with_regressors(student: Any) -> Any:
    """The student with 1 x 1 convolutions that translate its maps into the teacher's two."""
    stride16 = layers.Conv2D(512, 1, name="regress_block4")(student.get_layer("pool4_relu").output)
    stride32 = layers.Conv2D(512, 1, name="regress_block5")(student.output)
    return keras.Model(student.input, [stride16, stride32])


def set_momentum(model: Any, momentum: float) -> None:
    """Set the batch normalisation momentum of every layer."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = momentum


def batches(images: NDArray[np.uint8], rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """One epoch of augmented (BATCH, VIEW, VIEW, 3) batches, every image once, the remainder dropped."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        views = [augment(images[row], rng, VIEWS, VIEW) for row in order[start : start + BATCH]]
        yield np.repeat(np.stack(views).astype(np.float32)[..., np.newaxis], 3, axis=-1)


def teacher_statistics(teaching: Any, images: NDArray[np.uint8]) -> tuple[list[Any], list[Any]]:
    """Mean and deviation of each teacher channel over a few batches, for both maps."""
    some = list(batches(images, np.random.default_rng(SEED)))[:16]
    maps = [[np.asarray(tf.cast(m, tf.float32)) for m in teaching(batch, training=False)] for batch in some]
    joined = [np.concatenate([pair[i].reshape(-1, 512) for pair in maps]) for i in range(2)]
    # A channel that never fires here would be divided by zero.
    return [m.mean(0) for m in joined], [m.std(0) + 0.01 * m.std() for m in joined]


def training_step(learning: Any, teaching: Any, optimizer: Any, means: list[Any], deviations: list[Any]) -> Any:
    """The compiled step: one batch in, the mean squared error against the standardised targets out."""

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Any) -> Any:
        targets = teaching(batch, training=False)
        with tf.GradientTape() as tape:
            loss = 0.0
            for got, wanted, mean, deviation in zip(
                learning(batch, training=True), targets, means, deviations, strict=True
            ):
                error = tf.cast(got, tf.float32) - (tf.cast(wanted, tf.float32) - mean) / deviation
                loss += tf.reduce_mean(tf.square(error)) / 2
        gradients = tape.gradient(loss, learning.trainable_variables)
        optimizer.apply_gradients(zip(gradients, learning.trainable_variables, strict=True))
        return loss

    return step


def settle_batch_norm(student: Any, images: NDArray[np.uint8]) -> None:
    """Re-estimate the normalisation statistics on whole images at serving size, instead of the last few views."""
    # After 24 steps 5 % of the old statistics are left.
    set_momentum(student, 0.88)
    rng = np.random.default_rng(SEED)

    # Compiled, because layer by layer every map of a batch would stay in memory until its end: twelve gigabytes.
    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])  # type: ignore[untyped-decorator]
    def see(batch: Any) -> Any:
        return tf.reduce_mean(student(batch, training=True))

    for _ in range(24):
        batch = images[rng.integers(len(images), size=2 * BATCH)].astype(np.float32)[..., np.newaxis]
        see(tf.constant(np.repeat(batch, 3, axis=-1)))
