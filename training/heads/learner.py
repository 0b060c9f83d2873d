"""Heads, and the upper block of a backbone with them: fitted to kept views, shrunk hard.

A published head gives every position of its pooled map weights of its own: 1.1 million in its first layer, for a few
hundred patients. Fitted is its twin whose first layers see each channel's mean alone, a ninth of the weights; the
published head then gets the twin's weights at every position, and computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from training.architectures import SIDE
from training.data.images import SEED
from training.heads.shrinkage import Regression, carry, shrunken
from training.tasks import Task
from training.views import CUTS, Examples, Kept, pooled_mean

Rows = NDArray[np.int64]
BATCH = 32
SMOOTHING = 0.1
POSITIONS = (SIDE // 2) ** 2  # of a pooled map


#: Of the stage in which a backbone's upper block is trained with the head, slowly: at most, and the highest rate.
EPOCHS, RATE = 12, 2e-4


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of each channel of a backbone's map, over training images."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, maps: NDArray[np.float32]) -> Scale:
        """Return the scale of maps (..., channels)."""
        axes = tuple(range(maps.ndim - 1))
        deviation = maps.std(axes)
        # A channel that hardly ever fires says little; it is not to be blown up to the size of the others.
        return cls(maps.mean(axes), np.maximum(deviation, 0.1 * float(np.median(deviation))))


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    """An epoch: every row once, each in a view drawn anew, with labels and class weights."""

    def __init__(self, task: Task, examples: Examples, rows: Rows, *, training: bool) -> None:
        super().__init__()
        self._task, self._examples, self._rows, self._training = task, examples, rows, training
        self._rng = np.random.default_rng([SEED, len(rows)])
        self._views = max(len(examples.kept[backbone]) for backbone in task.backbones) if training else 1
        self._weights = class_weights(examples.numbers[rows], len(task.classes))
        self.on_epoch_end()

    def __len__(self) -> int:
        return int(np.ceil(len(self._rows) / BATCH))

    def __getitem__(self, index: int) -> tuple[tuple[Any, ...], Any, Any]:
        rows = self._order[index * BATCH : (index + 1) * BATCH]
        numbers = self._examples.numbers[rows]
        maps = self._examples.batch(self._task.backbones, self._rng.integers(self._views, size=len(rows)), rows)
        truth = np.eye(len(self._task.classes), dtype=np.float32)[numbers]
        return tuple(maps), truth, self._weights[numbers]

    def on_epoch_end(self) -> None:
        self._order = self._rng.permutation(self._rows) if self._training else self._rows


class Learner:
    """A task's twin head on the kept maps; of a backbone with a cut, on what its upper block makes of them."""

    def __init__(self, task: Task, backbones: Mapping[str, Any], examples: Examples, rows: Rows) -> None:
        """`backbones`: those that are unfinished; their upper blocks are trained in place."""
        self.task = task
        self.uppers = {name: upper(backbones[name], CUTS[name]) for name in task.backbones if name in backbones}
        self.twin = task.head(side=2)
        self.scales = [Scale.of(self._pooled(name, examples.kept[name][0, rows])) for name in task.backbones]
        inputs, means = zip(*map(self._mean, task.backbones, self.scales), strict=True)
        self.model = keras.Model(list(inputs), after_pooling(self.twin)(list(means)))

    def shrink(self, strengths: Sequence[float], examples: Examples, rows: Rows) -> list[Regression]:
        """Regressions of each branch by itself on these rows in all their views, each with its inverse penalty.

        By themselves, because fitted to both branches at once the one with more channels speaks for both.
        """
        views = max(len(examples.kept[backbone]) for backbone in self.task.backbones)
        numbers, classes = examples.numbers[rows], len(self.task.classes)
        # An image counts once, however many views there are of it.
        weights = class_weights(numbers, classes)[numbers] / views
        return [
            shrunken(seen, np.tile(numbers, views), np.tile(weights, views), strength, classes)
            for seen, strength in zip(self._standardised(examples, rows, views), strengths, strict=True)
        ]

    def carry(self, regressions: Sequence[Regression], shares: Sequence[float]) -> None:
        """Make the head's logits the weighted mean of its branches'."""
        kernels = [kernel * share for (kernel, _), share in zip(regressions, shares, strict=True)]
        biases = [bias * share for (_, bias), share in zip(regressions, shares, strict=True)]
        carry(self.twin, first_dense(self.twin), np.concatenate(kernels), np.sum(biases, axis=0))

    def raise_upper(self, epochs: int, examples: Examples, rows: Rows, val: Rows | None = None) -> list[dict[str, Any]]:
        """Train upper blocks and head for so many epochs; with `val`, keep the best and stop when it is long past."""
        batches = Batches(self.task, examples, rows, training=True)
        # The whole stage's schedule, however early it ends: the epoch that served validation best is then the same one
        # in every later training.
        rate = keras.optimizers.schedules.CosineDecay(
            RATE / 10, EPOCHS * len(batches), warmup_target=RATE, warmup_steps=len(batches), alpha=0.02
        )
        sigmoid = self.task.activation == "sigmoid"
        losses = keras.losses.BinaryCrossentropy if sigmoid else keras.losses.CategoricalCrossentropy
        self.model.compile(
            keras.optimizers.AdamW(rate, weight_decay=0.05, clipnorm=1.0),
            losses(label_smoothing=SMOOTHING),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
        stop = keras.callbacks.EarlyStopping(patience=max(3, epochs // 4), restore_best_weights=True)
        held = Batches(self.task, examples, val, training=False) if val is not None else None
        history = self.model.fit(
            batches, epochs=epochs, validation_data=held, callbacks=[stop] if held else [], verbose=0
        ).history
        named = {"stage": f"{self.task.name} upper block"}
        return [named | dict(zip(history, values, strict=True)) for values in zip(*history.values(), strict=True)]

    def predict(self, examples: Examples, rows: Rows) -> NDArray[np.float32]:
        """Probabilities (N, classes) of the images themselves."""
        found = self.model.predict(Batches(self.task, examples, rows, training=False), verbose=0)
        return np.asarray(found, dtype=np.float32)

    def head(self) -> Any:
        """Return the published head with the twin's weights; it takes the backbones' own maps."""
        head = self.task.head()
        for layer in self.twin.layers:
            if isinstance(layer, layers.Dense):
                spread(layer, head)
        fold(head, self.scales)
        return head

    def _pooled(self, name: str, maps: Kept) -> NDArray[np.float32]:
        """Return the means of a backbone's last map, from what is kept of it."""
        if name in self.uppers:
            return pooled_mean(self.uppers[name].predict(maps, batch_size=BATCH, verbose=0).astype(np.float32))
        return maps.astype(np.float32)

    def _standardised(self, examples: Examples, rows: Rows, views: int) -> Iterator[NDArray[np.float32]]:
        """Each backbone's means (views * N, channels) of these rows, as the twin's first layers see them."""
        for name, scale in zip(self.task.backbones, self.scales, strict=True):
            kept = examples.kept[name]
            parts = [self._pooled(name, kept[view % len(kept), rows])[:, 0, 0] for view in range(views)]
            yield (np.concatenate(parts) - scale.mean) / scale.deviation

    def _mean(self, name: str, scale: Scale) -> tuple[Any, Any]:
        if name in self.uppers:
            at_cut = keras.Input(self.uppers[name].input_shape[1:], name=name)
            maps = layers.Activation("linear", dtype="float32")(self.uppers[name](at_cut))
            mean = layers.GlobalAveragePooling2D(keepdims=True)(layers.AveragePooling2D(2)(maps))
        else:
            at_cut = mean = keras.Input((1, 1, len(scale.mean)), name=name)
        return at_cut, layers.Normalization(mean=scale.mean, variance=np.square(scale.deviation))(mean)


def class_weights(numbers: Rows, classes: int) -> NDArray[np.float32]:
    """How much an image of each class counts: between as they come and all classes alike, rare ones more."""
    counts = np.maximum(np.bincount(numbers, minlength=classes), 1)
    return np.asarray((len(numbers) / (classes * counts)) ** 0.5, np.float32)


def upper(backbone: Any, cut: str) -> Any:
    """Return what follows a backbone's layer, as a network that shares its weights."""
    return keras.Model(backbone.get_layer(cut).output, backbone.output)


def after_pooling(head: Any) -> Any:
    """Return the head's layers behind its pooling, as a model that shares their weights."""
    pooled = [layer.output for layer in head.layers if isinstance(layer, layers.AveragePooling2D)]
    return keras.Model(pooled, head.output)


def spread(layer: Any, head: Any) -> None:
    """Give a twin's dense layer to its head: a first one at every position alike, so that their sum is its mean."""
    kernel, bias = layer.get_weights()
    theirs = head.get_layer(layer.name)
    if len(kernel) != theirs.get_weights()[0].shape[0]:
        kernel = np.tile(kernel / POSITIONS, (POSITIONS, 1))
    theirs.set_weights([kernel, bias])


def fold(head: Any, scales: Sequence[Scale]) -> None:
    """Move the standardisation into each branch's first dense layer, so that the head takes raw maps."""
    for dense, scale in zip(first_dense(head), scales, strict=True):
        kernel, bias = dense.get_weights()
        repeats = len(kernel) // len(scale.mean)  # one per pooled position
        kernel = kernel / np.tile(scale.deviation, repeats)[:, np.newaxis]
        dense.set_weights([kernel, bias - np.tile(scale.mean, repeats) @ kernel])


def first_dense(head: Any) -> list[Any]:
    """Return the first dense layer of each of a head's branches, in the order of its inputs."""
    dense = [layer for layer in head.layers if isinstance(layer, layers.Dense)]
    prefixes = [tensor.name for tensor in head.inputs] if len(head.inputs) > 1 else [""]
    return [next(layer for layer in dense if layer.name.startswith(prefix)) for prefix in prefixes]
