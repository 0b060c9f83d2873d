"""A network's JSON, as Keras writes it, to a plain list of layers: for whatever runs a network without Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError

Weights = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Layer:
    """One layer; `inputs` are the names of the layers whose outputs it takes."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: tuple[str, ...]

    def check(self, **wanted: object) -> None:
        """ModelError unless the layer's options are these: any other would be computed wrongly in silence."""
        for option, value in wanted.items():
            found = self.config.get(option)
            if (tuple(found) if isinstance(found, list) else found) != value:
                raise ModelError(f"layer {self.name}: {option} {found} is not what a {self.kind} here can have")


@dataclass(frozen=True)
class Network:
    """Layers in an order in which each comes after its inputs; names of the first ones and of the last."""

    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    output: str


def read_network(description: Mapping[str, Any], kinds: frozenset[str]) -> Network:
    """Read the functional network of one output that `keras.saving.serialize_keras_object` described.

    Raises ModelError when the description is not one, or has layers of other kinds than `kinds`.
    """
    try:
        config = description["config"]
        layers = tuple(_layer(entry) for entry in config["layers"])
        inputs, outputs = _names(config["input_layers"]), _names(config["output_layers"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ModelError("a network's architecture is not one that Keras wrote") from error
    if strange := {layer.kind for layer in layers} - kinds:
        raise ModelError(f"layers that cannot be here: {', '.join(sorted(strange))}")
    if len(outputs) != 1:
        raise ModelError(f"a network with {len(outputs)} outputs")
    return Network(_ordered(layers), inputs, outputs[0])


def variable(weights: Weights, layer: Layer, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    """Return a layer's weight in float32; ModelError when it is missing or has another shape."""
    path = f"{layer.name}/{name}"
    if path not in weights:
        raise ModelError(f"the weights lack {path}")
    if shape is not None and weights[path].shape != shape:
        raise ModelError(f"{path} has another shape than its layer")
    return np.ascontiguousarray(weights[path], dtype=np.float32)


def _layer(entry: Mapping[str, Any]) -> Layer:
    return Layer(entry["name"], entry["class_name"], entry["config"], _inputs(entry["inbound_nodes"]))


def _inputs(nodes: list[dict[str, Any]]) -> tuple[str, ...]:
    if not nodes:
        return ()
    # More calls than one would be a layer that is shared by two places of the network.
    (node,) = nodes
    (argument,) = node["args"]
    tensors = argument if isinstance(argument, list) else [argument]
    return tuple(tensor["config"]["keras_history"][0] for tensor in tensors)


def _names(places: list[Any]) -> tuple[str, ...]:
    """Keras writes one place flat (["name", 0, 0]), or a list of such."""
    return tuple(place[0] for place in ([places] if isinstance(places[0], str) else places))


def _ordered(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    done: dict[str, Layer] = {}
    waiting = list(layers)
    while waiting:
        ready = [layer for layer in waiting if set(layer.inputs) <= done.keys()]
        if not ready:
            raise ModelError(f"layer {waiting[0].name} takes what no layer gives")
        done |= {layer.name: layer for layer in ready}
        waiting = [layer for layer in waiting if layer.name not in done]
    return tuple(done.values())
