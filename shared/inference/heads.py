"""A bundle's head on numpy: backbone maps to probabilities, and to the places that spoke for a class.

A head is a few small matrices. Here they need no TensorFlow, and stay in float32 whatever the backbone ran in: with
bfloat16 in the last layers the probabilities come out in visible steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError
from shared.inference.bundle import Bundle, Head
from shared.inference.layers import Layer, Network, Weights, read_network, variable

Array = NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)
# From the gradient with respect to a layer's output to those with respect to its inputs.
Pullback = Callable[[Array], list[Array]]
# A layer: from its inputs to its output.
Step = Callable[[Sequence[Array]], tuple[Array, Pullback]]
KINDS = frozenset({"InputLayer", "AveragePooling2D", "Flatten", "Dense", "Dropout", "Concatenate"})


class HeadNetwork:
    """One head, ready to answer for maps of its backbones."""

    def __init__(self, network: Network, weights: Weights, backbones: Sequence[str]) -> None:
        """`backbones` name the network's inputs in order. Raises ModelError for what a head cannot be made of."""
        if len(network.inputs) != len(backbones):
            raise ModelError(f"a head with {len(network.inputs)} inputs for {len(backbones)} backbones")
        self.backbones = tuple(backbones)
        self._network = network
        self._shapes = {layer.name: _shape(layer) for layer in network.layers if layer.kind == "InputLayer"}
        self._probabilities = _last_activation(network)
        last = network.output
        self._steps = {layer.name: _step(layer, weights, last) for layer in network.layers if layer.inputs}

    @classmethod
    def load(cls, bundle: Bundle, head: Head) -> Self:
        """Return the head as the bundle's files describe it; ModelError when they do not fit together."""
        try:
            network = read_network(bundle.load_architecture(head.architecture), KINDS)
            return cls(network, bundle.load_weights(head.weights), head.backbones)
        except ModelError as error:
            raise ModelError(f"{head.name}: {error.detail}") from error

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape (h, w, channels) of the maps that it takes of each backbone."""
        return {
            backbone: self._shapes[name] for backbone, name in zip(self.backbones, self._network.inputs, strict=True)
        }

    def predict(self, maps: Mapping[str, Array]) -> Array:
        """Probabilities (N, classes), float32, for each backbone's maps (N, h, w, channels)."""
        values, _ = self._run(maps)
        return self._probabilities(values[self._network.output])

    def explain(self, maps: Mapping[str, Array], classes: NDArray[np.integer]) -> Array:
        """Where each image's class comes from: (N, h, w), 0 to 1; all zero where nothing spoke for the class.

        Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the backbone's map: its channels weighted with the mean
        gradient of the class's logit, summed, cut below zero and scaled to a maximum of 1. With two backbones, the mean
        of both pictures. The gradient runs through the head only. `classes` holds one class number per image.
        """
        values, pullbacks = self._run(maps)
        logits = values[self._network.output]
        gradients = self._gradients(np.eye(logits.shape[1], dtype=np.float32)[classes], pullbacks)
        pictures = [_picture(values[name], gradients[name]) for name in self._network.inputs]
        return np.asarray(np.mean(pictures, axis=0), dtype=np.float32)

    def _run(self, maps: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Pullback]]:
        """Every layer's output (of the last one the logits), and the way back through it."""
        values: dict[str, Array] = {}
        pullbacks: dict[str, Pullback] = {}
        for backbone, name in zip(self.backbones, self._network.inputs, strict=True):
            if backbone not in maps or maps[backbone].shape[1:] != self._shapes[name]:
                raise ValueError(f"the head takes maps of {backbone} of shape (N, *{self._shapes[name]})")
            values[name] = np.asarray(maps[backbone], dtype=np.float32)
        for layer in self._network.layers:
            if layer.inputs:
                step = self._steps[layer.name]
                values[layer.name], pullbacks[layer.name] = step([values[name] for name in layer.inputs])
        return values, pullbacks

    def _gradients(self, gradient: Array, pullbacks: Mapping[str, Pullback]) -> dict[str, Array]:
        """Return the gradient with respect to every layer's output, from the one with respect to the last's."""
        gradients = {self._network.output: gradient}
        for layer in reversed(self._network.layers):
            if layer.inputs and layer.name in gradients:
                parts = pullbacks[layer.name](gradients[layer.name])
                for name, part in zip(layer.inputs, parts, strict=True):
                    gradients[name] = gradients[name] + part if name in gradients else part
        return gradients


def pool(inputs: Sequence[Array]) -> tuple[Array, Pullback]:
    """Mean over squares of 2 x 2; an odd last row or column is left out."""
    maps = inputs[0]
    height, width = maps.shape[1] // 2 * 2, maps.shape[2] // 2 * 2
    cut = maps[:, :height, :width]

    def back(gradient: Array) -> list[Array]:
        full = np.zeros_like(maps)
        full[:, :height, :width] = (gradient / 4).repeat(2, axis=1).repeat(2, axis=2)
        return [full]

    squares = cut[:, ::2, ::2] + cut[:, 1::2, ::2] + cut[:, ::2, 1::2] + cut[:, 1::2, 1::2]
    return squares * np.float32(0.25), back


def flatten(inputs: Sequence[Array]) -> tuple[Array, Pullback]:
    """Each image's values in one row."""
    maps = inputs[0]
    rows = maps.reshape(len(maps), math.prod(maps.shape[1:]))
    return rows, lambda gradient: [gradient.reshape(maps.shape)]


def same(inputs: Sequence[Array]) -> tuple[Array, Pullback]:
    """Dropout, which is there in training only."""
    return inputs[0], lambda gradient: [gradient]


def join(inputs: Sequence[Array]) -> tuple[Array, Pullback]:
    """Rows side by side."""
    ends = np.cumsum([part.shape[1] for part in inputs])
    return np.concatenate(inputs, axis=1), lambda gradient: np.split(gradient, ends[:-1], axis=1)


def dense(kernel: Array, bias: Array, *, rectify: bool) -> Step:
    """Compute `inputs @ kernel + bias`, cut below zero where the layer is a rectifier."""

    def step(inputs: Sequence[Array]) -> tuple[Array, Pullback]:
        found = inputs[0] @ kernel + bias
        if not rectify:
            return found, lambda gradient: [gradient @ kernel.T]
        return np.maximum(found, 0), lambda gradient: [(gradient * (found > 0)) @ kernel.T]

    return step


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(np.float32(0), -logits))


def softmax(logits: NDArray[Real]) -> NDArray[Real]:
    """Shares of exp(x) in each row, without overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def linear(logits: Array) -> Array:
    """Return the logits themselves."""
    return logits


OUTPUTS: dict[str, Callable[[Array], Array]] = {"sigmoid": sigmoid, "softmax": softmax, "linear": linear}


def _shape(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.config["batch_shape"][1:])


def _last_activation(network: Network) -> Callable[[Array], Array]:
    """Return what makes probabilities of the last layer's logits."""
    last = next(layer for layer in network.layers if layer.name == network.output)
    activation = last.config.get("activation")
    if last.kind != "Dense" or activation not in OUTPUTS:
        raise ModelError(f"a head that ends in a {last.kind} layer with activation {activation}")
    return OUTPUTS[activation]


def _step(layer: Layer, weights: Weights, last: str) -> Step:
    if layer.kind == "Dense":
        return _dense(layer, weights, gives_logits=layer.name == last)
    if layer.kind == "AveragePooling2D":
        layer.check(pool_size=(2, 2), strides=(2, 2), padding="valid", data_format="channels_last")
        return pool
    if layer.kind == "Concatenate":
        layer.check(axis=-1)
        return join
    return {"Flatten": flatten, "Dropout": same}[layer.kind]


def _dense(layer: Layer, weights: Weights, *, gives_logits: bool) -> Step:
    layer.check(use_bias=True)
    activation = layer.config["activation"]
    if not gives_logits and activation not in {"relu", "linear"}:
        raise ModelError(f"layer {layer.name}: activation {activation} inside a head")
    bias = variable(weights, layer, "bias", (layer.config["units"],))
    return dense(variable(weights, layer, "kernel"), bias, rectify=activation == "relu")


def _picture(maps: Array, gradient: Array) -> Array:
    weights = gradient.mean(axis=(1, 2))
    found = np.maximum(np.einsum("nhwc,nc->nhw", maps, weights, optimize=True), 0)
    top = found.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(found, top, out=np.zeros_like(found), where=top > 0))
