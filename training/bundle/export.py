"""Trained networks to a bundle: architectures as JSON, weights as safetensors, a card that pins both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save

from shared.errors import ConfigError
from shared.inference.bundle import CARD, Backbone, Card, Head
from training.bundle.model_card import readme


def write_network(out: Path, name: str, network: Any) -> dict[str, str]:
    """Write NAME.json and NAME.safetensors; returns the two file names as a card gives them."""
    description = keras.saving.serialize_keras_object(network)
    # Which optimiser it was trained with is of no use to whoever loads it.
    description["compile_config"] = None
    (out / f"{name}.json").write_text(json.dumps(description, separators=(",", ":")), encoding="utf-8")
    (out / f"{name}.safetensors").write_bytes(save({v.path: stored(v.path, v.numpy()) for v in network.weights}))
    return {"architecture": f"{name}.json", "weights": f"{name}.safetensors"}


def stored(path: str, value: Any) -> Any:
    """Kernels in half precision; the vectors weigh nothing, and batch normalisation's may exceed its range."""
    if value.ndim < 2:
        return value.astype(np.float32)
    half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise ConfigError(f"the weights of {path} do not fit half precision: the training diverged")
    return half


def write_card(out: Path, card: Card) -> Card:
    """Write card.json, with the SHA-256 of every file it names, and README.md beside it."""
    hashes = {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in sorted(files(out, card))}
    card = card.model_copy(update={"files": hashes})
    (out / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(readme(card), encoding="utf-8")
    return card


def files(out: Path, card: Card) -> set[str]:
    """Return what belongs to a bundle: the files that its card names, and the pictures and the log beside them."""
    parts: list[Backbone | Head] = [*card.backbones.values(), *card.heads.values()]
    engines = [entry for engine in card.engines.values() for entry in engine.values()]
    named = {file for part in parts for file in (part.architecture, part.weights)}
    named |= {file for entry in engines for file in (entry.model, entry.weights)}
    named |= {file for file in (card.parity, card.gate and card.gate.weights) if file}
    return named | {path.name for pattern in ("*.png", "*.csv") for path in out.glob(pattern)}
