"""A real bundle that is tiny: its backbones see how bright a picture is, its heads call bright ones COVID-19.

Its gate, if it has one, takes bright pictures for X-rays, dark ones for CT slices, and black ones for neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save

from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import CARD, Backbone, Bundle, Card, Gate, Head
from shared.inference.engine import Engine, EngineName, FeatureMaps, Pixels
from shared.inference.tensorflow_engine import TensorFlowEngine
from training.bundle.export import write_network
from worker.classify.predictor import Model

SIZE, GRID, CHANNELS = 56, 7, 4
BLACK, CT_GREY, XRAY_GREY = 0, 60, 200
DENSENET, VGG = "densenet201", "vgg16"
CLASSES = {"binary": ("covid19", "not_covid19"), "ensemble": ("normal", "pneumonia", "covid19")}
BACKBONES = {"binary": (DENSENET,), "ensemble": (VGG, DENSENET)}
#: By classifier, how each class's logit rises with the brightness (0 to 1), and where it starts.
SLOPES = {"binary": ((20.0, -20.0), (-10.0, 10.0)), "ensemble": ((-20.0, 0.0, 20.0), (10.0, 0.0, -10.0))}


class Watched:
    """An engine that notes what each backbone was shown."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shown: list[tuple[str, int]] = []

    @property
    def name(self) -> EngineName:
        return self.engine.name

    @property
    def lanes(self) -> int:
        return self.engine.lanes

    @property
    def max_batch(self) -> int:
        return self.engine.max_batch

    def feature_maps(
        self, images: Pixels, backbones: Collection[str], *, beside: bool = False
    ) -> dict[str, FeatureMaps]:
        self.shown += [(backbone, len(images)) for backbone in sorted(backbones)]
        return self.engine.feature_maps(images, backbones, beside=beside)

    def warm_up(self) -> None:
        self.engine.warm_up()


def tiny_bundle(
    path: Path, *, version: str = "1", review_margin: float = 0.0, size: int = SIZE, gated: bool = False
) -> Bundle:
    """A bundle in a new folder; another version is another bundle."""
    path.mkdir(parents=True)
    backbones = {
        name: Backbone(**write_network(path, name, _backbone(name, size)), origin="a test") for name in (DENSENET, VGG)
    }
    heads = {}
    for classifier, modality in (("binary", "xray"), ("binary", "ct"), ("ensemble", "xray")):
        head = _head(path, classifier, modality, review_margin)
        heads[head.name] = head
    gate = _gate(path) if gated else None
    card = Card(
        name=path.name,
        version=version,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        preprocessing=InputSpec(size=size),
        backbones=backbones,
        heads=heads,
        gate=gate,
        data=(),
        limits=(),
        notice="research only",
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()},
    )
    (path / CARD).write_text(card.model_dump_json(), encoding="utf-8")
    return Bundle.open(path)


def tiny_model(path: Path, **options: Any) -> Model:
    """A tiny bundle on TensorFlow."""
    bundle = tiny_bundle(path, **options)
    return Model(bundle, Watched(TensorFlowEngine(bundle, max_batch=4)))


def _backbone(name: str, size: int) -> Any:
    pixels = keras.Input((None, None, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 255, name="scale")(pixels)
    x = keras.layers.AveragePooling2D(size // GRID, name="pool")(x)
    brightness = keras.layers.Conv2D(CHANNELS, 1, activation="relu", name="brightness")
    network = keras.Model(pixels, brightness(x), name=name)
    # Channel c is how much brighter than c/4 a place is.
    kernel = np.full((1, 1, 3, CHANNELS), 1 / 3, np.float32)
    brightness.set_weights([kernel, -np.arange(CHANNELS, dtype=np.float32) / CHANNELS])
    return network


def _head(path: Path, classifier: str, modality: str, review_margin: float) -> Head:
    maps = [keras.Input((GRID, GRID, CHANNELS), name=backbone) for backbone in BACKBONES[classifier]]
    rows = [keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(one)) for one in maps]
    activation = "sigmoid" if classifier == "binary" else "softmax"
    last = keras.layers.Dense(len(CLASSES[classifier]), activation=activation, name="probabilities")
    network = keras.Model(maps, last(keras.layers.Concatenate()(rows) if len(rows) > 1 else rows[0]))
    _set_slopes(last, *SLOPES[classifier])
    return Head(
        classifier=classifier,
        modality=modality,
        classes=CLASSES[classifier],
        activation=activation,
        temperature=1,
        backbones=BACKBONES[classifier],
        review_margin=review_margin,
        metrics={},
        **write_network(path, f"{classifier}-{modality}", network),
    )


def _gate(path: Path) -> Gate:
    """From the mean over the map, whose first channel is 0 where it is black and second where it is not bright."""
    weights = np.zeros((CHANNELS + 4, 3), np.float32)
    weights[1, 0], weights[0, 2] = 10, -10
    arrays = {
        "pools": np.full((1, GRID * GRID), 1 / GRID**2, np.float32),
        "mean": np.zeros(CHANNELS, np.float32),
        "scale": np.ones(CHANNELS, np.float32),
        "components": np.eye(CHANNELS, dtype=np.float32),
        "centres": np.zeros((2, CHANNELS), np.float32),
        "whiteners": np.zeros((2, CHANNELS, CHANNELS), np.float32),
        "weights": weights,
        "bias": np.array([0, 2, 5], np.float32),
        "threshold": np.zeros(1, np.float32),
    }
    (path / "gate.safetensors").write_bytes(save(arrays))
    return Gate(backbone=DENSENET, weights="gate.safetensors", metrics={})


def _set_slopes(layer: Any, slopes: tuple[float, ...], starts: tuple[float, ...]) -> None:
    """Logits from the mean of every backbone's first channel."""
    kernel = np.zeros(layer.kernel.shape, np.float32)
    brightness = slice(0, None, CHANNELS)
    kernel[brightness] = np.array(slopes) / len(kernel[brightness])
    layer.set_weights([kernel, np.array(starts, np.float32)])
