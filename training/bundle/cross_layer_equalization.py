"""Even out a backbone's channels before it is quantised, without changing what it computes.

An int8 tensor has one step for all of its channels. DenseNet joins the outputs of a hundred layers and normalises them
only afterwards, so the quiet ones among them would drown in the loud ones' steps. Here every channel that only batch
normalisations read is scaled to a deviation of 1, and its readers are scaled back: cross-layer equalisation (Nagel et
al. 2019, arXiv 1906.04721), with the statistics that the normalisations carry and hence without data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.inference.layers import Layer, Network, Weights, read_network

Channel = tuple[str, int]  # a layer that makes it, and its number there
# Layers whose output scales with their input, channel by channel, when the factor is positive.
PASSING = frozenset({"Activation", "AveragePooling2D", "Concatenate", "MaxPooling2D", "ZeroPadding2D"})
# What of a layer makes its output; the other layers' outputs cannot be scaled.
MAKING = {"BatchNormalization": ("gamma", "beta"), "Conv2D": ("kernel", "bias")}


def cross_layer_equalization(description: Mapping[str, Any], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Weights for the same network (as Keras described it) with which it computes the same through even channels."""
    network = read_network(description, PASSING | MAKING.keys() | {"InputLayer", "Rescaling"})
    channels = trace(network, weights)
    factors = choose_factors(network, weights, channels)
    new = {path: np.array(value, np.float32) for path, value in weights.items()}
    for layer in network.layers:
        if layer.kind in MAKING:
            mine = factors_of(((layer.name, number) for number in range(len(channels[layer.name]))), factors)
            _scale(new, layer, MAKING[layer.kind], mine)
        if layer.kind == "BatchNormalization":
            read = factors_of(channels[layer.inputs[0]], factors)
            _scale(new, layer, ("gamma",), np.reciprocal(read))
            _scale(new, layer, ("moving_mean",), read)
    return new


def trace(network: Network, weights: Weights) -> dict[str, list[Channel]]:
    """Which channels every layer's output consists of; a layer that cannot pass them on makes its own."""
    channels: dict[str, list[Channel]] = {}
    for layer in network.layers:
        if layer.kind in PASSING:
            channels[layer.name] = [channel for name in layer.inputs for channel in channels[name]]
        else:
            channels[layer.name] = [(layer.name, number) for number in range(_width(layer, weights))]
    return channels


def choose_factors(network: Network, weights: Weights, channels: Mapping[str, list[Channel]]) -> dict[Channel, float]:
    """1 / the deviation (mean over its readers) of every channel that nothing but normalisations reads."""
    deviations: dict[Channel, list[float]] = defaultdict(list)
    bound = set(channels[network.output])
    for layer in network.layers:
        read = [channel for name in layer.inputs for channel in channels[name]]
        if layer.kind == "BatchNormalization":
            variance = weights[f"{layer.name}/moving_variance"].astype(np.float64) + layer.config["epsilon"]
            for channel, deviation in zip(read, np.sqrt(variance), strict=True):
                deviations[channel].append(float(deviation))
        elif layer.kind not in PASSING:
            bound |= set(read)
    makers = {layer.name for layer in network.layers if layer.kind in MAKING}
    return {
        channel: float(1 / np.mean(found))
        for channel, found in deviations.items()
        if channel not in bound and channel[0] in makers
    }


def factors_of(channels: Iterable[Channel], factors: Mapping[Channel, float]) -> NDArray[np.float32]:
    """Return the channels' factors, 1 for one that stays as it is."""
    return np.array([factors.get(channel, 1.0) for channel in channels], np.float32)


def _width(layer: Layer, weights: Weights) -> int:
    if layer.kind in MAKING:
        return int(weights[f"{layer.name}/{MAKING[layer.kind][0]}"].shape[-1])
    if layer.kind == "InputLayer":
        return int(layer.config["batch_shape"][-1])
    return int(np.size(layer.config["offset"]))


def _scale(
    weights: dict[str, NDArray[np.float32]], layer: Layer, names: Iterable[str], by: NDArray[np.float32]
) -> None:
    for name in names:
        if f"{layer.name}/{name}" in weights:  # a convolution may lack a bias
            weights[f"{layer.name}/{name}"] *= by
