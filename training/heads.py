"""Heads on frozen trunks: feature maps once, then small networks on them, regularised hard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.architectures import BINARY_CLASSES, DENSENET, ENSEMBLE_CLASSES, VGG, binary_head, ensemble_head
from training.calibrate import cool, fit_temperature
from training.data import SEED, Warp, augment

COVID, REST = BINARY_CLASSES
# Labels that a binary head counts as "not COVID-19"; a label in no list is skipped, and said to be.
NOT_COVID = frozenset({"normal", "pneumonia", "non_covid19", REST})
Runner = Callable[[Any], Any]
COPIES = 1  # augmented copies of each training image, beside the image itself


@dataclass(frozen=True)
class Task:
    """A head to train: its classifier and modality (that of the folder), trunks in input order, and classes."""

    classifier: str
    modality: str
    trunks: tuple[str, ...]
    classes: tuple[str, ...]
    activation: str

    @property
    def name(self) -> str:
        return f"{self.classifier}-{self.modality}"


TASKS = (
    Task("binary", "xray", (DENSENET,), BINARY_CLASSES, "sigmoid"),
    Task("binary", "ct", (DENSENET,), BINARY_CLASSES, "sigmoid"),
    Task("ensemble", "xray", (VGG, DENSENET), ENSEMBLE_CLASSES, "softmax"),
)


def class_numbers(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The class of each label, -1 where the classifier has none for it."""
    numbers = {name: number for number, name in enumerate(classes)}
    if REST in numbers:
        numbers |= dict.fromkeys(NOT_COVID, numbers[REST])
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)


def runner(trunk: Any) -> Runner:
    """A trunk as one compiled function for any number of images of any size."""
    signature = tf.TensorSpec((None, None, None, 3), tf.float32)
    return cast(Runner, tf.function(lambda pixels: trunk(pixels, training=False), input_signature=[signature]))


def feature_maps(
    runners: Mapping[str, Runner], images: NDArray[np.uint8], batch: int = 16
) -> dict[str, NDArray[np.float16]]:
    """Each trunk's maps (N, 7, 7, channels) of prepared images (N, 224, 224)."""
    maps: dict[str, NDArray[np.float16]] = {}
    for name, run in runners.items():
        parts = []
        for start in range(0, len(images), batch):
            grey = images[start : start + batch].astype(np.float32)[..., np.newaxis]
            parts.append(np.asarray(run(tf.constant(np.repeat(grey, 3, axis=-1)))).astype(np.float16))
        maps[name] = np.concatenate(parts)
    return maps


def with_copies(images: NDArray[np.uint8], copies: int = COPIES) -> NDArray[np.uint8]:
    """The images, followed by `copies` rounds of augmented ones in the same order."""
    rng = np.random.default_rng(SEED)
    rounds = [np.stack([augment(image, rng, Warp(), image.shape[0]) for image in images]) for _ in range(copies)]
    return np.concatenate([images, *rounds])


Pooled = NDArray[np.float32]  # (N, 3, 3, channels)
Examples = tuple[list[Pooled], NDArray[np.int64]]  # pooled maps of each of the head's trunks; class numbers


def pool(maps: NDArray[np.float16]) -> Pooled:
    """What a head's 2 x 2 average pooling makes of maps (N, H, W, channels); an odd last row or column is dropped."""
    count, height, width, channels = maps.shape[0], maps.shape[1] // 2, maps.shape[2] // 2, maps.shape[3]
    blocks = maps[:, : 2 * height, : 2 * width].reshape(count, height, 2, width, 2, channels)
    return np.asarray(blocks.mean((2, 4), dtype=np.float32))


def after_pooling(head: Any) -> Any:
    """The head's layers behind its pooling, as a model that shares their weights: training need not pool again."""
    pooled = [layer.output for layer in head.layers if isinstance(layer, keras.layers.AveragePooling2D)]
    return keras.Model(pooled, head.output)


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of each channel of a trunk's pooled maps, over the training images."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, maps: Pooled) -> Scale:
        deviation = maps.std((0, 1, 2))
        # A channel that hardly ever fires says little; it is not to be blown up to the size of the others.
        return cls(maps.mean((0, 1, 2)), np.maximum(deviation, 0.1 * float(np.median(deviation))))

    def apply(self, maps: Pooled) -> Pooled:
        return (maps - self.mean) / self.deviation


def train_head(task: Task, train: Examples, val: Examples, epochs: int) -> tuple[Any, float]:
    """A trained and calibrated head, and its temperature.

    Epochs and temperature are chosen on `val`; then the head is trained afresh on both parts for as long.
    """
    trial = build_head(task)
    best = fit(trial, train, epochs, val)
    temperature = fit_temperature(after_pooling(trial).predict(val[0], verbose=0), val[1], task.activation)
    head = build_head(task)
    fit(head, both(train, val), best)
    cool(head, temperature)
    return head, temperature


def build_head(task: Task) -> Any:
    """An untrained head, the same at every call."""
    keras.utils.set_random_seed(SEED)
    return binary_head(task.modality) if task.classifier == "binary" else ensemble_head(task.modality)


def both(one: Examples, other: Examples) -> Examples:
    """Two parts as one."""
    return [np.concatenate(pair) for pair in zip(one[0], other[0], strict=True)], np.concatenate([one[1], other[1]])


def fit(head: Any, train: Examples, epochs: int, val: Examples | None = None) -> int:
    """Fit a head to maps and class numbers; with `val`, keep its best epoch. Returns how many epochs that took."""
    classes, (maps, numbers) = head.output_shape[-1], train
    scales = [Scale.of(part) for part in maps]
    weights = len(numbers) / (classes * np.maximum(np.bincount(numbers, minlength=classes), 1))
    sigmoid = head.get_layer("probabilities").activation is keras.activations.sigmoid
    model = after_pooling(head)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.05),
        loss=keras.losses.BinaryCrossentropy() if sigmoid else keras.losses.CategoricalCrossentropy(),
    )
    stop = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
    history = model.fit(
        [scale.apply(part) for scale, part in zip(scales, maps, strict=True)],
        np.eye(classes, dtype=np.float32)[numbers],
        sample_weight=weights[numbers].astype(np.float32),
        validation_data=val and ([s.apply(m) for s, m in zip(scales, val[0], strict=True)], np.eye(classes)[val[1]]),
        batch_size=32,
        epochs=epochs,
        callbacks=[stop] if val else [],
        verbose=0,
    )
    fold(head, scales)
    return int(np.argmin(history.history["val_loss"])) + 1 if val else epochs


def fold(head: Any, scales: Sequence[Scale]) -> None:
    """Move the standardisation into each branch's first dense layer, so that the head takes raw maps."""
    for dense, scale in zip(first_dense(head), scales, strict=True):
        kernel, bias = dense.get_weights()
        repeats = len(kernel) // len(scale.mean)  # one per pooled position
        kernel = kernel / np.tile(scale.deviation, repeats)[:, np.newaxis]
        dense.set_weights([kernel, bias - np.tile(scale.mean, repeats) @ kernel])


def first_dense(head: Any) -> list[Any]:
    """The first dense layer of each of a head's branches, in the order of its inputs."""
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    prefixes = [tensor.name for tensor in head.inputs] if len(head.inputs) > 1 else [""]
    return [next(layer for layer in dense if layer.name.startswith(prefix)) for prefix in prefixes]
