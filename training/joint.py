"""The student's second stage: it goes on imitating the teacher, and learns the CT labels at the same time.

A few hundred labelled slices alone teach a network this large to remember them. The dense targets of every view, of
both modalities, hold it to what is general; the labels choose among that. X-ray labels take no part, so that
patient-wise cross-validation of the X-ray classifiers stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from training.data import SEED, Warp, augment
from training.distil import set_momentum
from training.progress import Progress

VIEW = 160  # pixels
# Two towers, each with its half of a step's views and its own batch normalisation: a graph of one leaves the second
# core idle for a quarter of the time.
TOWERS = 2
BATCH, LABELLED = 16, 8  # views of a tower, and how many of them are CT slices with labels
LABEL_WEIGHT = 0.5
XRAY_VIEWS = Warp(zoom=(0.68, 1.25), degrees=10, shift=0.0, contrast=0.2)
# From the whole slice on: what decides may lie anywhere in it.
CT_VIEWS = Warp(zoom=(0.7, 1.3), degrees=12, shift=0.0, contrast=0.3)
PEAK_RATE = 1e-3
SMOOTHING = 0.1
BATCH_NORM_MOMENTUM = 0.95
SAVE_EVERY = 50  # steps


@dataclass(frozen=True)
class Images:
    """What the stage sees: X-rays without labels; CT slices, and which of them are of COVID-19 (1) or not (0)."""

    xray: NDArray[np.uint8]
    ct: NDArray[np.uint8]
    ct_covid: NDArray[np.float32]


class Deck:
    """Row numbers in random order, each once before any comes again."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._count, self._rng, self._left = count, rng, np.empty(0, np.int64)

    def draw(self, count: int) -> NDArray[np.int64]:
        """The next `count` numbers."""
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._rng.permutation(self._count)])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


class Views:
    """Endless batches (TOWERS * BATCH, VIEW, VIEW, 3) of augmented views; each tower's labelled ones come last."""

    def __init__(self, images: Images, rng: np.random.Generator) -> None:
        self._images, self._rng = images, rng
        self._xrays, self._slices = Deck(len(images.xray), rng), Deck(len(images.ct), rng)

    def draw(self) -> tuple[Any, Any]:
        """The next batch, and the labels (TOWERS * LABELLED) of its labelled views."""
        views: list[NDArray[np.uint8]] = []
        labels = []
        for _ in range(TOWERS):
            xrays, slices = self._xrays.draw(BATCH - LABELLED), self._slices.draw(LABELLED)
            views += self._seen(self._images.xray, xrays, XRAY_VIEWS) + self._seen(self._images.ct, slices, CT_VIEWS)
            labels.append(self._images.ct_covid[slices])
        pixels = np.repeat(np.stack(views).astype(np.float32)[..., np.newaxis], 3, axis=-1)
        return tf.constant(pixels), tf.constant(np.concatenate(labels))

    def _seen(self, images: NDArray[np.uint8], rows: NDArray[np.int64], warp: Warp) -> list[NDArray[np.uint8]]:
        return [augment(images[row], self._rng, warp, VIEW) for row in rows]


def levels(teacher: Any) -> Any:
    """The teacher's block4 map at stride 16; and at stride 32 its block5 map with means and maxima of blocks 2 to 4.

    On the VGG16 itself, logistic regression on the means of these is right on 84.4 % of the X-rays (three classes,
    patient-wise), on those of block5 alone on 79.5 %.
    """
    parts = [teacher.get_layer("block5_pool").output]
    for number, side in ((4, 2), (3, 4), (2, 8)):
        maps = teacher.get_layer(f"block{number}_pool").output
        parts += [layers.AveragePooling2D(side)(maps), layers.MaxPooling2D(side)(maps)]
    return keras.Model(teacher.input, [teacher.get_layer("block4_pool").output, layers.Concatenate()(parts)])


def learner(student: Any, teaching: Any) -> Any:
    """The student with 1 x 1 convolutions to the teacher's levels, and one logit for COVID-19."""
    channels = [maps.shape[-1] for maps in teaching.outputs]
    stride16 = layers.Conv2D(channels[0], 1, name="regress_stride16")(student.get_layer("pool4_relu").output)
    stride32 = layers.Conv2D(channels[1], 1, name="regress_stride32")(student.output)
    pooled = layers.Dropout(0.4)(layers.GlobalAveragePooling2D()(student.output))
    logit = layers.Dense(1, dtype="float32", kernel_initializer="zeros", name="covid")(pooled)
    return keras.Model(student.input, [stride16, stride32, logit])


def learn(
    student: Any, teacher: Any, images: Images, steps: int, checkpoint: Path, report: Callable[[str], None]
) -> None:
    """Train `student` for so many steps; resumes from and writes `checkpoint`."""
    keras.utils.set_random_seed(SEED)
    set_momentum(student, BATCH_NORM_MOMENTUM)
    teaching = levels(teacher)
    learning = learner(student, teaching)
    rate = keras.optimizers.schedules.CosineDecay(
        PEAK_RATE / 20, steps, warmup_target=PEAK_RATE, warmup_steps=steps // 12, alpha=0.01
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=2e-2, clipnorm=1.0)
    progress = Progress(learning, optimizer, checkpoint)
    done = progress.done
    if done >= steps:
        return
    views = Views(images, np.random.default_rng([SEED, done]))
    step = training_step(learning, teaching, optimizer, standard(teaching, views))
    losses = []
    for number in range(done + 1, steps + 1):
        losses.append([float(loss) for loss in step(*views.draw())])
        if number % SAVE_EVERY == 0 or number == steps:
            progress.save(number)
            distance, surprise = np.mean(losses, axis=0)
            report(f"joint: step {number}/{steps}, unexplained variance {distance:.3f}, CT loss {surprise:.3f}")
            losses = []


def standard(teaching: Any, views: Views) -> list[tuple[Any, Any]]:
    """Mean and deviation of each of the teacher's channels, at both strides, over a few batches."""
    some = [[np.asarray(tf.cast(part, tf.float32)) for part in teaching(views.draw()[0])] for _ in range(12)]
    joined = [np.concatenate([pair[i].reshape(-1, pair[i].shape[-1]) for pair in some]) for i in range(2)]
    # A channel that never fires here would be divided by zero.
    return [(part.mean(0), part.std(0) + 0.01 * part.std()) for part in joined]


def training_step(learning: Any, teaching: Any, optimizer: Any, scales: Sequence[tuple[Any, Any]]) -> Any:
    """The compiled step: a batch in; out, the mean squared error of the dense targets and the labels' surprise."""

    def tower(batch: Any, covid: Any) -> tuple[Any, Any, Any]:
        targets = teaching(batch, training=False)
        with tf.GradientTape() as tape:
            *dense, logit = learning(batch, training=True)
            distance = dense_loss(dense, targets, scales)
            smooth = (covid * (1 - SMOOTHING) + SMOOTHING / 2)[:, tf.newaxis]
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=smooth, logits=logit[BATCH - LABELLED :])
            surprise = tf.reduce_mean(losses)
            loss = distance + LABEL_WEIGHT * surprise
        return distance, surprise, tape.gradient(loss, learning.trainable_variables)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Any, covid: Any) -> tuple[Any, Any]:
        distances, surprises, gradients = zip(
            *map(tower, tf.split(batch, TOWERS), tf.split(covid, TOWERS)), strict=True
        )
        mean = [tf.add_n(parts) / TOWERS for parts in zip(*gradients, strict=True)]
        optimizer.apply_gradients(zip(mean, learning.trainable_variables, strict=True))
        return tf.add_n(distances) / TOWERS, tf.add_n(surprises) / TOWERS

    return step


def dense_loss(dense: Sequence[Any], targets: Sequence[Any], scales: Sequence[tuple[Any, Any]]) -> Any:
    """Mean squared error against the standardised targets, the mean of both strides."""
    loss = 0.0
    for got, wanted, (mean, deviation) in zip(dense, targets, scales, strict=True):
        error = tf.cast(got, tf.float32) - (tf.cast(wanted, tf.float32) - mean) / deviation
        loss += tf.reduce_mean(tf.square(error)) / 2
    return loss
