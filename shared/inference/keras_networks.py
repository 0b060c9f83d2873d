"""A bundle's files to Keras networks: the one place where serving and evaluation build them.

Apart from shared/inference/bundle.py because the API reads bundles and never imports TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.errors import ModelError
from shared.inference.bundle import Backbone, Bundle, Head

# What Thoraq's networks are made of. A card's SHA-256 says which bundle this is; this says that it holds layers only:
# Keras would also build a Lambda, which is code.
LAYERS = frozenset(
    {
        "Activation", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Dense", "Dropout",
        "Flatten", "InputLayer", "MaxPooling2D", "Rescaling", "ZeroPadding2D",
    }
)  # fmt: skip


def tensorflow(threads: int | None = None) -> Any:
    """TensorFlow, set up; imported here so that a process which only imports this module may still fork."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    if threads is not None and threads != tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    for device in tf.config.list_physical_devices("GPU"):
        # Otherwise the first process takes all of the memory, and a second one on the same GPU gets none.
        tf.config.experimental.set_memory_growth(device, True)
    return tf


def rebuild(bundle: Bundle, part: Backbone | Head, policy: str = "float32") -> Any:
    """Return the Keras network that two files of the bundle describe; ModelError when they do not fit together.

    `policy` is the Keras dtype policy to compute in; the variables are float32 in all of them.
    """
    tensorflow()
    import keras

    description = bundle.load_architecture(part.architecture)
    kinds = {layer["class_name"] for layer in description["config"]["layers"]}
    if strange := kinds - LAYERS:
        raise ModelError(f"{part.architecture}: layers that no Thoraq network has: {', '.join(sorted(strange))}")
    stored = bundle.load_weights(part.weights)
    for layer in description["config"]["layers"]:
        if layer["class_name"] != "InputLayer":
            layer["config"]["dtype"] = policy
    network = keras.saving.deserialize_keras_object(description, safe_mode=True)
    fill(network, stored, part.weights, part.architecture)
    return network


def fill(network: Any, stored: Mapping[str, Any], weights: str, architecture: str) -> None:
    """Give a network its weights by their paths; ModelError, which names both files, if they are another's."""
    variables = {variable.path: variable for variable in network.weights}
    if variables.keys() != stored.keys():
        raise ModelError(f"{weights}: not the weights of {architecture}")
    for name, variable in variables.items():
        if tuple(variable.shape) != stored[name].shape:
            raise ModelError(f"{weights}: {name} has another shape in {architecture}")
        variable.assign(stored[name].astype(np.float32))
