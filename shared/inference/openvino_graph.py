"""A backbone as an OpenVINO graph, built from what Keras wrote about it: no TensorFlow, and no conversion tool.

OpenVINO's own converter would load TensorFlow, and report its use to its makers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset13 as ops

from shared.errors import ModelError
from shared.imaging.preprocess import InputSpec
from shared.inference.layers import Layer, Weights, read_network, variable

Node = Any  # OpenVINO's nodes come without usable types


def build_backbone(description: Mapping[str, Any], weights: Weights, spec: InputSpec) -> ov.Model:
    """Return the network that takes prepared pixels (N, size, size) uint8 and gives maps (N, h, w, channels) float32.

    `description` is that of `keras.saving.serialize_keras_object`, `weights` go by their Keras paths. Raises
    ModelError for a layer, or a layer's option, that no backbone has.
    """
    network = read_network(description, frozenset({"InputLayer", *LAYERS}))
    pixels = ops.parameter([-1, spec.size, spec.size], np.uint8, name="pixels")
    grey = ops.unsqueeze(ops.convert(pixels, np.float32), ops.constant([1]))
    # Inside, channels come first, as OpenVINO computes.
    nodes: dict[str, Node] = {name: ops.concat([grey] * spec.channels, axis=1) for name in network.inputs}
    for layer in network.layers:
        if layer.inputs:
            layer.check(data_format=layer.config.get("data_format") and "channels_last")
            nodes[layer.name] = LAYERS[layer.kind](layer, weights, [nodes[name] for name in layer.inputs])
    maps = ops.transpose(nodes[network.output], ops.constant([0, 2, 3, 1]))
    return ov.Model([ops.result(maps, name="maps")], [pixels], network.output)


def _rescale(layer: Layer, _: Weights, inputs: list[Node]) -> Node:
    scale, offset = (_per_channel(layer.config[name]) for name in ("scale", "offset"))
    return ops.add(ops.multiply(inputs[0], scale), offset)


def _pad(layer: Layer, _: Weights, inputs: list[Node]) -> Node:
    (top, bottom), (left, right) = layer.config["padding"]
    before, after = ops.constant([0, 0, top, left]), ops.constant([0, 0, bottom, right])
    return ops.pad(inputs[0], before, after, "constant", ops.constant(np.float32(0)))


def _convolve(layer: Layer, weights: Weights, inputs: list[Node]) -> Node:
    layer.check(groups=1, dilation_rate=(1, 1))
    kernel = variable(weights, layer, "kernel").transpose(3, 2, 0, 1)
    options = {"strides": layer.config["strides"], "dilations": [1, 1], "pads_begin": [0, 0], "pads_end": [0, 0]}
    found = ops.convolution(inputs[0], np.ascontiguousarray(kernel), auto_pad=_padding(layer), **options)
    found.set_friendly_name(layer.name)  # so that training can speak of it
    if layer.config["use_bias"]:
        found = ops.add(found, _per_channel(variable(weights, layer, "bias")))
    return _activate(layer, found)


def _normalise(layer: Layer, weights: Weights, inputs: list[Node]) -> Node:
    layer.check(center=True, scale=True)
    _along_channels(layer)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (variable(weights, layer, name) for name in names)
    scale = gamma / np.sqrt(variance + np.float32(layer.config["epsilon"]))
    return ops.add(ops.multiply(inputs[0], _per_channel(scale)), _per_channel(beta - mean * scale))


def _activation(layer: Layer, _: Weights, inputs: list[Node]) -> Node:
    return _activate(layer, inputs[0])


def _pool_max(layer: Layer, _: Weights, inputs: list[Node]) -> Node:
    # Of opset 1: later ones give a second output, the places of the maxima.
    return opset1.max_pool(inputs[0], layer.config["strides"], **_pooling(layer))


def _pool_mean(layer: Layer, _: Weights, inputs: list[Node]) -> Node:
    return ops.avg_pool(inputs[0], layer.config["strides"], exclude_pad=True, **_pooling(layer))


def _join(layer: Layer, _: Weights, inputs: list[Node]) -> Node:
    _along_channels(layer)
    return ops.concat(inputs, axis=1)


def _along_channels(layer: Layer) -> None:
    if layer.config["axis"] not in {3, -1}:
        raise ModelError(f"layer {layer.name}: works along axis {layer.config['axis']}, not the channels")


def _activate(layer: Layer, node: Node) -> Node:
    if layer.config["activation"] not in {"relu", "linear"}:
        raise ModelError(f"layer {layer.name}: activation {layer.config['activation']}")
    return ops.relu(node) if layer.config["activation"] == "relu" else node


def _pooling(layer: Layer) -> dict[str, Any]:
    shape = layer.config["pool_size"]
    return {"pads_begin": [0, 0], "pads_end": [0, 0], "kernel_shape": shape, "auto_pad": _padding(layer)}


def _padding(layer: Layer) -> str:
    return {"valid": "valid", "same": "same_upper"}[layer.config["padding"]]


def _per_channel(values: Any) -> Node:
    """Return a constant that spreads over (N, channels, h, w)."""
    return ops.constant(np.asarray(values, np.float32).reshape(1, -1, 1, 1))


LAYERS: dict[str, Callable[[Layer, Weights, list[Node]], Node]] = {
    "Activation": _activation,
    "AveragePooling2D": _pool_mean,
    "BatchNormalization": _normalise,
    "Concatenate": _join,
    "Conv2D": _convolve,
    "MaxPooling2D": _pool_max,
    "Rescaling": _rescale,
    "ZeroPadding2D": _pad,
}
