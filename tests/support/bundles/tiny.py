"""Bundles that are whole and tiny: those of `write_bundle` hold no network, those of `write_working_bundle` answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from shared.inference.bundle import Bundle
from shared.inference.engines import make_engine
from shared.inference.heads import HeadNetwork
from shared.inference.parity import Reference

FILES = {
    "backbone.json": b'{"config": {}}',
    "backbone.safetensors": b"weights of the backbone",
    "head.json": b"{}",
    "head.safetensors": b"x",
}
CLASSES = {
    ("binary", "xray"): ("covid19", "not_covid19"),
    ("binary", "ct"): ("covid19", "not_covid19"),
    ("ensemble", "xray"): ("normal", "pneumonia", "covid19"),
}
HEADS = tuple(CLASSES)
SIZE, GRID, CHANNELS = 224, 7, 4


def write_bundle(path: Path, *, version: str = "1", heads: tuple[tuple[str, str], ...] = HEADS) -> Bundle:
    """A bundle in a new folder, called after it; another version is another bundle."""
    card = _card(path.name, version, {f"{classifier}-{modality}": "head" for classifier, modality in heads})
    return _write(path, card, FILES)


def write_working_bundle(path: Path) -> Bundle:
    """A bundle whose networks run, on any engine, and mean nothing."""
    files = {"backbone.json": _backbone(), "backbone.safetensors": save(_weights("conv", (1, 1, 3, CHANNELS)))}
    names = {}
    for (classifier, modality), classes in CLASSES.items():
        names[f"{classifier}-{modality}"] = name = f"{classifier}-{modality}"
        files[f"{name}.json"] = _head_network(len(classes))
        files[f"{name}.safetensors"] = save(_weights("out", (GRID * GRID * CHANNELS, len(classes))))
    card = _card(path.name, "1", names)
    files["parity.safetensors"] = _reference(_write(path.with_name(f"{path.name}-unproved"), card, files)).dump()
    return _write(path, card | {"parity": "parity.safetensors"}, files)


def _reference(bundle: Bundle) -> Reference:
    images = np.random.default_rng(1).integers(0, 255, (4, SIZE, SIZE), np.uint8)
    maps = make_engine("openvino-float32", bundle).feature_maps(images, ["backbone"])
    return Reference(
        images, {name: HeadNetwork.load(bundle, head).predict(maps) for name, head in bundle.heads.items()}
    )


def _write(path: Path, card: dict[str, Any], files: Mapping[str, bytes]) -> Bundle:
    path.mkdir(parents=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    pinned = {"files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    (path / "card.json").write_text(json.dumps(card | pinned), encoding="utf-8")
    return Bundle.open(path)


def _card(name: str, version: str, heads: Mapping[str, str]) -> dict[str, Any]:
    """A card without `files`; `heads` says how the files of each head are called."""
    return {
        "name": name,
        "version": version,
        "created": "2026-01-01T00:00:00Z",
        "preprocessing": {"size": SIZE, "channels": 3, "interpolation": "area", "version": "1"},
        "trunks": {
            "backbone": {"architecture": "backbone.json", "weights": "backbone.safetensors", "origin": "a test"}
        },
        "heads": {head: _head(head, file) for head, file in heads.items()},
        "data": [],
        "limits": [],
        "notice": "research only",
    }


def _head(name: str, file: str) -> dict[str, Any]:
    classifier, _, modality = name.partition("-")
    return {
        "classifier": classifier,
        "modality": modality,
        "classes": CLASSES[classifier, modality],
        "activation": "softmax",
        "temperature": 1.0,
        "trunks": ["backbone"],
        "architecture": f"{file}.json",
        "weights": f"{file}.safetensors",
        "metrics": {},
    }


def _backbone() -> bytes:
    """Means of 32 x 32 pixels, then a few sums of them."""
    side = SIZE // GRID
    pool = {"pool_size": [side, side], "strides": [side, side], "padding": "valid", "data_format": "channels_last"}
    conv: dict[str, Any] = {"filters": CHANNELS, "kernel_size": [1, 1], "strides": [1, 1], "padding": "valid"}
    conv |= {
        "data_format": "channels_last",
        "dilation_rate": [1, 1],
        "groups": 1,
        "activation": "relu",
        "use_bias": True,
    }
    layers = [
        _layer("InputLayer", "pixels", {"batch_shape": [None, None, None, 3], "dtype": "float32"}),
        _layer("AveragePooling2D", "pool", pool, "pixels"),
        _layer("Conv2D", "conv", conv, "pool"),
    ]
    return _network(layers)


def _head_network(classes: int) -> bytes:
    layers = [
        _layer("InputLayer", "backbone", {"batch_shape": [None, GRID, GRID, CHANNELS], "dtype": "float32"}),
        _layer("Flatten", "flat", {"data_format": "channels_last"}, "backbone"),
        _layer("Dense", "out", {"units": classes, "activation": "softmax", "use_bias": True}, "flat"),
    ]
    return _network(layers)


def _layer(kind: str, name: str, config: dict[str, Any], before: str | None = None) -> dict[str, Any]:
    history = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name} | config,
        "registered_name": None,
        "name": name,
        "inbound_nodes": [] if before is None else [{"args": [history], "kwargs": {}}],
    }


def _network(layers: list[dict[str, Any]]) -> bytes:
    first, last = layers[0]["name"], layers[-1]["name"]
    config = {"name": "network", "layers": layers, "input_layers": [first, 0, 0], "output_layers": [last, 0, 0]}
    return json.dumps({"module": "keras", "class_name": "Functional", "config": config}).encode()


def _weights(layer: str, shape: tuple[int, ...]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    values = np.random.default_rng(1).normal(0, 0.01, shape).astype(np.float32)
    return {f"{layer}/kernel": values, f"{layer}/bias": np.zeros(shape[-1], np.float32)}
