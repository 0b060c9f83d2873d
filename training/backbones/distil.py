"""Dense feature distillation: a DenseNet201 learns to see what a pretrained EfficientNet-Lite2 sees, without labels.

Where no pretrained DenseNet201 is at hand, a few hundred images are far too few to train one on labels. But they
hold hundreds of thousands of image regions, and for each of them the teacher knows a rich answer: the student's
stride-16 and stride-32 maps regress the teacher's through 1 x 1 convolutions, and so do their means, which are what a
head pools. Teacher and student see the same views, mixed ones too (Beyer et al. 2022, arXiv 2106.05237).

The last steps are trained with the batch normalisations as they will serve, on statistics that stay (Wu and Johnson
2021, arXiv 2105.07576): normalised by its own batch, a view is never seen to run away, but served so, two
CT slices of a hundred did, from layer to layer, up to a hundred times the usual activations.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from shared.errors import ConfigError
from training.backbones.progress import Progress
from training.data.images import SEED, Warp, augment

# Small views at serving scale cost half of whole images; the second half of the steps, the COOL_DOWN, sees those.
VIEW, WHOLE = 160, 224  # pixels
# Two towers, each with its half of a step's views and its own batch normalisation: a graph of one leaves the second
# core idle for a quarter of the time.
TOWERS = 2
BATCH = 16  # views of a tower
# From the whole image seen small to a part of it seen large, around the scale of serving (1.0).
VIEWS = Warp(zoom=(0.68, 1.3), degrees=10, shift=0.0, contrast=0.25)
MIXED = 0.5  # of the views, with another one
PEAK_RATE = 1e-3
WARM_UP, COOL_DOWN = 100, 0.5  # steps; the last part of them, in which the rate falls to nothing
BATCH_NORM_MOMENTUM = 0.95
SETTLED = 0.2  # of the steps, the last ones: normalised by statistics that stay
MEAN_WEIGHT = 1.0
SAVE_EVERY = 50  # steps
LOG = "log.csv"


@dataclass(frozen=True)
class Scales:
    """Mean and deviation of each of the teacher's channels at both strides, and of the second's means over a view."""

    maps: tuple[tuple[Any, Any], ...]
    mean: tuple[Any, Any]


class Deck:
    """Row numbers in random order, each once before any comes again."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._count, self._rng, self._left = count, rng, np.empty(0, np.int64)

    def draw(self, count: int) -> NDArray[np.int64]:
        """Draw the next `count` numbers."""
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._rng.permutation(self._count)])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


class Views:
    """Endless batches (TOWERS * BATCH, size, size, 3) of augmented views, as many of each modality."""

    def __init__(self, sets: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> None:
        self._sets, self._rng = sets, rng
        self._decks = [Deck(len(images), rng) for images in sets]

    def draw(self, size: int) -> Any:
        """Draw the next batch."""
        count = TOWERS * BATCH // len(self._sets)
        views = np.stack(
            [
                augment(images[row], self._rng, VIEWS, size)
                for images, deck in zip(self._sets, self._decks, strict=True)
                for row in deck.draw(count)
            ]
        ).astype(np.float32)
        rng = self._rng
        views = views[rng.permutation(len(views))]
        share = np.where(rng.random(len(views)) < MIXED, rng.uniform(0, 0.5, len(views)), 0).astype(np.float32)
        share = share[:, np.newaxis, np.newaxis]
        mixed = views * (1 - share) + views[::-1] * share
        return tf.constant(np.repeat(mixed[..., np.newaxis], 3, axis=-1))


def levels(teacher: Any) -> Any:
    """Return the teacher's map at stride 16; and at stride 32 its last map with the means of those at strides 8 and 16.

    Logistic regression on the means of the second is right on 86 % of the X-rays (three classes, patient-wise).
    """
    fine, middle, coarse = teacher.outputs
    parts = [layers.AveragePooling2D(4)(fine), layers.AveragePooling2D(2)(middle), coarse]
    return keras.Model(teacher.input, [middle, layers.Concatenate()(parts)])


def learner(student: Any, teaching: Any) -> Any:
    """Return the student with 1 x 1 convolutions to the teacher's levels."""
    channels = [maps.shape[-1] for maps in teaching.outputs]
    stride16 = layers.Conv2D(channels[0], 1, name="regress_stride16", dtype="float32")(
        student.get_layer("pool4_relu").output
    )
    stride32 = layers.Conv2D(channels[1], 1, name="regress_stride32", dtype="float32")(student.output)
    return keras.Model(student.input, [stride16, stride32])


def set_momentum(model: Any, momentum: float) -> None:
    """Set the batch normalisation momentum of every layer."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = momentum


class Trapezoid(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras ships no types
    """A rate that rises, stays, and falls to nothing: until it falls, longer trainings are the same as shorter ones."""

    def __init__(self, peak: float, steps: int) -> None:
        self._peak, self._steps = peak, steps

    def __call__(self, step: Any) -> Any:
        done = tf.cast(step, tf.float32)
        left = (self._steps - done) / (COOL_DOWN * self._steps)
        return self._peak * tf.minimum(1.0, tf.minimum((done + 1) / WARM_UP, left))

    def get_config(self) -> dict[str, Any]:
        """Return what makes it again."""
        return {"peak": self._peak, "steps": self._steps}


def distil(
    student: Any,
    teacher: Any,
    sets: Sequence[NDArray[np.uint8]],
    steps: int,
    checkpoint: Path,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train `student` on unlabelled images, (N, S, S) of each modality; resumes from and writes `checkpoint`.

    Returns the log of all steps, earlier runs' too.
    """
    if min(map(len, sets)) < BATCH:
        raise ConfigError(f"distillation needs at least {BATCH} training images of a modality")
    set_momentum(student, BATCH_NORM_MOMENTUM)
    teaching = levels(teacher)
    learning = learner(student, teaching)
    optimizer = keras.optimizers.AdamW(Trapezoid(PEAK_RATE, steps), weight_decay=2e-2, clipnorm=1.0)
    progress = Progress(learning, optimizer, checkpoint)
    done = progress.done
    if done >= steps:
        return read_log(checkpoint)
    views = Views(sets, np.random.default_rng([SEED, done]))
    step = training_step(learning, teaching, optimizer, scales(teaching, sets))
    losses = []
    settled = round(steps * (1 - SETTLED))
    for number in range(done + 1, steps + 1):
        if number == settled + 1:
            settle_batch_norm(student, np.concatenate(sets))
        batch = views.draw(VIEW if number <= steps * (1 - COOL_DOWN) else WHOLE)
        losses.append([float(loss) for loss in step(batch, by_batch=number <= settled)])
        if number % SAVE_EVERY == 0 or number == steps:
            distance, mean = map(float, np.mean(losses, axis=0))
            progress.save(number)
            write_log(checkpoint, {"step": number, "unexplained": distance, "unexplained_means": mean})
            report(f"distil: step {number}/{steps}, unexplained variance {distance:.3f}, of the means {mean:.3f}")
            losses = []
    return read_log(checkpoint)


def write_log(checkpoint: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the log beside the checkpoint."""
    new = not (checkpoint / LOG).exists()
    with (checkpoint / LOG).open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """All rows, of the stage `distil`."""
    with (checkpoint / LOG).open(newline="", encoding="utf-8") as file:
        return [{"stage": "distil", **row} for row in csv.DictReader(file)]


def scales(teaching: Any, sets: Sequence[NDArray[np.uint8]]) -> Scales:
    """Return the teacher's statistics over a few batches."""
    views = Views(sets, np.random.default_rng(SEED))
    seen = [[np.asarray(tf.cast(part, tf.float32)) for part in teaching(views.draw(VIEW))] for _ in range(12)]
    joined = [np.concatenate(parts) for parts in zip(*seen, strict=True)]
    return Scales(tuple(scale(part) for part in joined), scale(joined[1].mean((1, 2))))


def scale(values: NDArray[np.float32]) -> tuple[Any, Any]:
    """Mean and deviation of each channel, the last axis."""
    axes = tuple(range(values.ndim - 1))
    deviation = values.std(axes)
    # A channel that never fires here would be divided by zero.
    return values.mean(axes), deviation + 0.05 * deviation.mean()


def training_step(learning: Any, teaching: Any, optimizer: Any, known: Scales) -> Any:
    """Return the compiled step: a batch in; out, the mean squared errors of the standardised maps and of their means.

    With `by_batch` the student normalises each tower's views by their own statistics, otherwise by those that it has.
    """

    def tower(batch: Any, by_batch: bool) -> tuple[Any, Any, Any]:
        targets = teaching(batch, training=False)
        with tf.GradientTape() as tape:
            errors = [
                got - (tf.cast(wanted, tf.float32) - mean) / deviation
                for got, wanted, (mean, deviation) in zip(
                    learning(batch, training=by_batch), targets, known.maps, strict=True
                )
            ]
            distance = tf.add_n([tf.reduce_mean(tf.square(error)) / len(errors) for error in errors])
            # What the mean of the second map misses, in deviations of the teacher's means.
            missed = tf.reduce_mean(errors[1], (1, 2)) * (known.maps[1][1] / known.mean[1])
            mean_distance = tf.reduce_mean(tf.square(missed))
            loss = distance + MEAN_WEIGHT * mean_distance
        return distance, mean_distance, tape.gradient(loss, learning.trainable_variables)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Any, by_batch: bool) -> tuple[Any, Any]:
        towers = [tower(part, by_batch) for part in tf.split(batch, TOWERS)]
        distances, means, gradients = zip(*towers, strict=True)
        mean = [tf.add_n(parts) / TOWERS for parts in zip(*gradients, strict=True)]
        optimizer.apply_gradients(zip(mean, learning.trainable_variables, strict=True))
        return tf.add_n(distances) / TOWERS, tf.add_n(means) / TOWERS

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
