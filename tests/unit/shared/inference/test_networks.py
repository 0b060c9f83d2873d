"""Networks are rebuilt from a bundle's own layers and weights, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import save

from shared.errors import ModelError
from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import Backbone, Bundle, Card
from shared.inference.keras_networks import rebuild


def bundle_of(path: Path, network: Any, weights: dict[str, Any]) -> Bundle:
    """A bundle whose only backbone has this architecture and these weights."""
    files = {
        "net.json": json.dumps(keras.saving.serialize_keras_object(network)).encode(),
        "net.safetensors": save(weights),
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
    card = Card(
        name="net",
        version="1",
        created="2026-01-01T00:00:00Z",
        preprocessing=InputSpec(),
        backbones={"net": Backbone(architecture="net.json", weights="net.safetensors", origin="a test")},
        heads={},
        data=(),
        limits=(),
        notice="research only",
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    (path / "card.json").write_text(card.model_dump_json())
    return Bundle.open(path)


def two_layers() -> Any:
    pixels = keras.Input((4,))
    return keras.Model(pixels, layers.Dense(2, name="out")(layers.Activation("relu")(pixels)))


KERNEL, BIAS = np.arange(8, dtype=np.float16).reshape(4, 2), np.ones(2, np.float32)


def test_a_network_computes_with_the_stored_weights(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, two_layers(), {"out/kernel": KERNEL, "out/bias": BIAS})
    network = rebuild(bundle, bundle.card.backbones["net"])
    np.testing.assert_allclose(network(np.eye(4, dtype=np.float32)).numpy(), KERNEL + 1)


def test_a_layer_that_carries_code_is_refused(tmp_path: Path) -> None:
    pixels = keras.Input((4,))
    network = keras.Model(pixels, layers.Lambda(lambda x: x + 1)(pixels))
    bundle = bundle_of(tmp_path, network, {})
    with pytest.raises(ModelError, match=r"^net\.json: layers that no Thoraq network has: Lambda"):
        rebuild(bundle, bundle.card.backbones["net"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"out/kernel": KERNEL}, "not the weights of net.json"),
        ({"out/kernel": KERNEL, "out/bias": BIAS, "more/bias": BIAS}, "not the weights of net.json"),
        ({"out/kernel": KERNEL.T.copy(), "out/bias": BIAS}, "out/kernel has another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: dict[str, Any], message: str) -> None:
    bundle = bundle_of(tmp_path, two_layers(), weights)
    with pytest.raises(ModelError, match=message):
        rebuild(bundle, bundle.card.backbones["net"])
