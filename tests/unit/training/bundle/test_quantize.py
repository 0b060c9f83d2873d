"""A backbone for OpenVINO computes what Keras computes, and in int8 nearly that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import openvino as ov
import pytest
from keras import layers
from numpy.typing import NDArray

from shared.errors import ConfigError, ModelError
from shared.imaging.preprocess import InputSpec
from shared.inference.openvino_graph import build_backbone
from tests.support.bundles.networks import CHANNELS, SIZE, as_tensor, dense_backbone, described, pictures
from training.bundle.cross_layer_equalization import cross_layer_equalization
from training.bundle.quantize import quantize

SPEC = InputSpec(size=SIZE)


@pytest.fixture(scope="module")
def backbone() -> Any:
    return dense_backbone()


def run(graph: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    # float32: by itself OpenVINO takes bfloat16 where the CPU has it.
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(images)[0])


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean() / wanted.var()))


def test_the_graph_computes_what_keras_computes(backbone: Any) -> None:
    images = pictures(5, seed=2)
    wanted = backbone(as_tensor(images), training=False).numpy()
    assert wanted.shape == (5, 4, 4, CHANNELS)
    np.testing.assert_allclose(run(build_backbone(*described(backbone), SPEC), images), wanted, atol=1e-4)


def test_even_channels_change_nothing_that_is_computed(backbone: Any) -> None:
    description, weights = described(backbone)
    even, images = cross_layer_equalization(description, weights), pictures(4, seed=2)
    wanted = run(build_backbone(description, weights, SPEC), images)
    np.testing.assert_allclose(run(build_backbone(description, even, SPEC), images), wanted, atol=1e-4)


def test_joined_channels_become_equally_loud(backbone: Any) -> None:
    description, weights = described(backbone)
    images = as_tensor(pictures(16))
    joined = keras.Model(backbone.input, backbone.get_layer("2_join").output)
    before = joined(images, training=False).numpy().std((0, 1, 2))
    even = cross_layer_equalization(description, weights)
    copy = keras.models.clone_model(backbone)
    for variable in copy.weights:
        variable.assign(even[variable.path])
    after = keras.Model(copy.input, copy.get_layer("2_join").output)(images, training=False).numpy().std((0, 1, 2))
    assert before.max() / before.min() > 100
    assert after.max() / after.min() < 10


def test_int8_is_close(backbone: Any, tmp_path: Path) -> None:
    images = pictures(24, seed=2)
    wanted = backbone(as_tensor(images), training=False).numpy()
    files = quantize(backbone, pictures(32), tmp_path, "dense")
    graph = ov.Core().read_model(tmp_path / files.model)
    kinds = {node.get_type_name() for node in graph.get_ops()}
    assert "FakeQuantize" in kinds
    assert graph.input().get_element_type() == ov.Type.u8
    # 0.06 where the CPU has VNNI, 0.29 where it has not: there, sums of int8 products saturate, and the channels of
    # this network differ a thousandfold. tests/integration/shared/inference/test_engine.py holds the real network to
    # its labels.
    assert relative_error(run(graph, images), wanted) < 0.4
    assert (tmp_path / files.weights).stat().st_size < 0.6 * 4 * backbone.count_params()


def test_the_same_backbone_and_images_give_the_same_files(backbone: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        quantize(backbone, pictures(8), folder, "dense")
    for file in ("dense-int8.xml", "dense-int8.bin"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_a_convolution_that_is_kept_is_not_quantised(backbone: Any, tmp_path: Path) -> None:
    whole = quantize(backbone, pictures(8), tmp_path, "whole")
    partly = quantize(backbone, pictures(8), tmp_path, "partly", keep=["1_conv"])
    counts = []
    for files in (whole, partly):
        nodes = ov.Core().read_model(tmp_path / files.model).get_ops()
        counts.append(sum(node.get_type_name() == "FakeQuantize" for node in nodes))
    assert counts[1] < counts[0]


def test_int8_needs_images(backbone: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibration"):
        quantize(backbone, np.empty((0, SIZE, SIZE), np.uint8), tmp_path, "dense")


def backbone_of(*stack: Any) -> Any:
    pixels = keras.Input((None, None, 3), name="pixels")
    x = pixels
    for layer in stack:
        x = layer(x)
    return keras.Model(pixels, x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (backbone_of(layers.Lambda(lambda x: x)), "Lambda"),
        (backbone_of(layers.Conv2D(6, 3, groups=3)), "groups"),
        (backbone_of(layers.Conv2D(6, 3, activation="tanh")), "activation tanh"),
        (backbone_of(layers.BatchNormalization(center=False)), "center"),
    ],
)
def test_what_no_backbone_has_is_refused(network: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_backbone(*described(network), SPEC)


def test_missing_weights_are_refused(backbone: Any) -> None:
    description, weights = described(backbone)
    del weights["stem/kernel"]
    with pytest.raises(ModelError, match="stem/kernel"):
        build_backbone(description, weights, SPEC)
