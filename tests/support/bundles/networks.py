"""A backbone with every kind of layer that the real ones have, joined as DenseNet joins them, and small."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

SIZE, CHANNELS = 32, 8  # pixels; channels of the map, which is 4 x 4


def dense_backbone(seed: int = 5) -> Any:
    """Images (N, 32, 32, 3) to maps (N, 4, 4, 8); its joined channels differ a thousandfold in loudness."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((None, None, 3), name="pixels")
    x = layers.Rescaling([1 / 60, 1 / 58, 1 / 57], [-2.1, -2.0, -1.8], name="normalise")(pixels)
    x = layers.ZeroPadding2D(((2, 1), (1, 2)), name="pad")(x)
    x = layers.Conv2D(6, 4, strides=2, use_bias=False, name="stem")(x)
    x = layers.Activation("relu", name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.MaxPooling2D(2, name="stem_pool")(x)
    for number in range(3):
        y = layers.Activation("relu", name=f"{number}_relu")(layers.BatchNormalization(name=f"{number}_bn")(x))
        y = layers.Conv2D(4, 3, padding="same", use_bias=number == 1, name=f"{number}_conv")(y)
        x = layers.Concatenate(name=f"{number}_join")([x, y])
    x = layers.AveragePooling2D(2, name="halve")(x)
    x = layers.BatchNormalization(name="last_bn")(x)
    x = layers.Conv2D(CHANNELS, 1, activation="relu", name="last")(x)
    backbone = keras.Model(pixels, x, name="dense")
    _settle(backbone)
    return backbone


def pictures(count: int, seed: int = 1, size: int = SIZE) -> NDArray[np.uint8]:
    """Smooth random pictures (count, size, size)."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4)).repeat(size // 4, 1).repeat(size // 4, 2)
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def described(network: Any) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """What a bundle's files would say about a network: its description, and its weights by path."""
    description = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
    return description, {variable.path: variable.numpy() for variable in network.weights}


def as_tensor(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Prepared pixels as the Keras backbone takes them."""
    return np.repeat(images[..., np.newaxis], 3, axis=-1).astype(np.float32)


def _settle(backbone: Any) -> None:
    """Loud and quiet convolutions, and normalisations that know what they will see."""
    rng = np.random.default_rng(3)
    for number, loudness in enumerate((1.0, 0.02, 30.0)):
        kernel = backbone.get_layer(f"{number}_conv").kernel
        kernel.assign(kernel * loudness)
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            seen = keras.Model(backbone.input, layer.input)(as_tensor(pictures(16))).numpy()
            layer.moving_mean.assign(seen.mean((0, 1, 2)))
            layer.moving_variance.assign(seen.var((0, 1, 2)))
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.uniform(-0.5, 0.5, layer.beta.shape))
