"""A head on numpy answers and explains as it does in Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from shared.config import Settings
from shared.errors import ModelError
from shared.inference.bundle import Bundle
from shared.inference.heads import KINDS, HeadNetwork
from shared.inference.keras_networks import rebuild
from shared.inference.layers import read_network

MODELS = Path(__file__).parents[4] / Settings.model_fields["model_dir"].default
RNG = np.random.default_rng(7)


def numpy_head(network: Any, backbones: tuple[str, ...]) -> HeadNetwork:
    """The head that a bundle's files would give."""
    description = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
    return HeadNetwork(read_network(description, KINDS), {v.path: v.numpy() for v in network.weights}, backbones)


def small_head(activation: str = "sigmoid", *, side: int = 5) -> Any:
    """Two backbones and every kind of layer; every bias is off zero, so that none may be forgotten."""
    keras.utils.set_random_seed(3)
    maps = [keras.Input((side, side, channels), name=name) for name, channels in (("one", 3), ("two", 4))]
    rows = [layers.Flatten()(layers.AveragePooling2D(2)(part)) for part in maps]
    rows[0] = layers.Dense(6, activation="relu")(rows[0])
    x = layers.Dropout(0.5)(layers.Concatenate()(rows))
    network = keras.Model(maps, layers.Dense(3, activation=activation)(layers.Dense(5, activation="relu")(x)))
    for variable in network.weights:
        variable.assign_add(RNG.normal(0, 0.3, variable.shape))
    return network


def small_maps(count: int, *, side: int = 5) -> dict[str, NDArray[np.float32]]:
    sizes = {"one": 3, "two": 4}
    return {name: RNG.normal(0, 1, (count, side, side, n)).astype(np.float32) for name, n in sizes.items()}


def keras_grad_cam(network: Any, maps: NDArray[np.float32], others: list[Any], row: int, number: int) -> Any:
    """Grad-CAM of the first input by TensorFlow's own gradient, of the logit of class `number`."""
    pixels = tf.constant(maps[row : row + 1])
    rest = [tf.constant(other[row : row + 1]) for other in others]
    last = network.layers[-1]
    body = keras.Model(network.inputs, last.input)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logits = body([pixels, *rest]) @ last.kernel + last.bias
        score = logits[0, number]
    gradient = tape.gradient(score, pixels).numpy()[0]
    picture = np.maximum((maps[row] * gradient.mean((0, 1))).sum(-1), 0)
    return picture / picture.max() if picture.max() > 0 else picture


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "linear"])
def test_it_answers_as_keras_does(activation: str) -> None:
    network, maps = small_head(activation), small_maps(4)
    found = numpy_head(network, ("one", "two")).predict(maps)
    wanted = network([maps["one"], maps["two"]], training=False).numpy()
    assert found.dtype == np.float32
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_shipped_heads_answer_as_in_keras() -> None:
    bundle = Bundle.open(MODELS, verify=False)
    sizes = {"densenet201": 1920, "vgg16": 512}
    maps = {name: np.maximum(RNG.normal(0, 1, (2, 7, 7, n)), 0).astype(np.float32) for name, n in sizes.items()}
    for head in bundle.heads.values():
        wanted = rebuild(bundle, head)([maps[backbone] for backbone in head.backbones], training=False).numpy()
        np.testing.assert_allclose(HeadNetwork.load(bundle, head).predict(maps), wanted, atol=1e-5)


@pytest.mark.parametrize("side", [4, 5])
def test_the_heatmap_is_grad_cam(side: int) -> None:
    """The mean over both backbones of what the gradient gives; an odd edge, which pooling leaves out, included."""
    network, maps = small_head("softmax", side=side), small_maps(6, side=side)
    # TensorFlow is asked about one input at a time, the first.
    swapped = keras.Model([network.inputs[1], network.inputs[0]], network.output)
    classes = np.array([0, 1, 2, 0, 1, 2])
    found = numpy_head(network, ("one", "two")).explain(maps, classes)
    assert found.shape == (6, side, side)
    for row, number in enumerate(classes):
        one = keras_grad_cam(network, maps["one"], [maps["two"]], row, number)
        two = keras_grad_cam(swapped, maps["two"], [maps["one"]], row, number)
        np.testing.assert_allclose(found[row], (one + two) / 2, atol=1e-5)


def test_a_heatmap_of_nothing_is_all_zero() -> None:
    head = numpy_head(small_head(), ("one", "two"))
    nothing = {name: np.zeros_like(part) for name, part in small_maps(1).items()}
    assert not head.explain(nothing, np.array([0])).any()


def test_huge_logits_do_not_overflow() -> None:
    for activation in ("sigmoid", "softmax"):
        head = numpy_head(small_head(activation), ("one", "two"))
        huge = {name: part * 1e6 for name, part in small_maps(3).items()}
        found = head.predict(huge)
        assert ((found >= 0) & (found <= 1)).all()


def test_no_image_gives_no_row() -> None:
    head = numpy_head(small_head(), ("one", "two"))
    assert head.predict(small_maps(0)).shape == (0, 3)
    assert head.explain(small_maps(0), np.empty(0, np.int64)).shape == (0, 5, 5)


def test_maps_of_another_backbone_are_refused() -> None:
    head = numpy_head(small_head(), ("one", "two"))
    maps = small_maps(1)
    for wrong in ({"one": maps["one"]}, {"one": maps["two"], "two": maps["two"]}):
        with pytest.raises(ValueError, match="the head takes maps of"):
            head.predict(wrong)


def one_layer(layer: Any, *more: Any) -> Any:
    maps = keras.Input((4, 4, 2), name="one")
    x = layer(maps)
    for another in more:
        x = another(x)
    return keras.Model([maps], x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (one_layer(layers.Conv2D(2, 1), layers.Flatten(), layers.Dense(2)), "Conv2D"),
        (one_layer(layers.AveragePooling2D(3), layers.Flatten(), layers.Dense(2)), "pool_size"),
        (one_layer(layers.AveragePooling2D(2, padding="same"), layers.Flatten(), layers.Dense(2)), "padding"),
        (one_layer(layers.Flatten(), layers.Dense(3, activation="tanh"), layers.Dense(2)), "activation tanh"),
        (one_layer(layers.Flatten(), layers.Dense(3, activation="sigmoid"), layers.Dense(2)), "activation sigmoid"),
        (one_layer(layers.Flatten(), layers.Dense(2, activation="relu")), "ends in a Dense layer"),
        (one_layer(layers.Flatten(), layers.Dense(2, use_bias=False)), "use_bias"),
        (one_layer(layers.Flatten()), "ends in a Flatten layer"),
    ],
)
def test_what_no_head_has_is_refused(network: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        numpy_head(network, ("one",))


def test_a_head_needs_its_weights_and_as_many_backbones_as_inputs() -> None:
    network = small_head()
    description = read_network(keras.saving.serialize_keras_object(network), KINDS)
    weights = {v.path: v.numpy() for v in network.weights}
    some = next(path for path in weights if path.endswith("/bias"))
    with pytest.raises(ModelError, match="lack"):
        HeadNetwork(description, {path: value for path, value in weights.items() if path != some}, ("one", "two"))
    with pytest.raises(ModelError, match="2 inputs for 1 backbones"):
        HeadNetwork(description, weights, ("one",))


@pytest.mark.parametrize("description", [{}, {"config": {"layers": [{}]}}, {"config": {}}])
def test_a_file_that_keras_did_not_write_is_refused(description: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not one that Keras wrote"):
        read_network(description, KINDS)
