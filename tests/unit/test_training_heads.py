"""Heads and distillation on networks small enough to train in seconds; what they compute is the real thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from shared.errors import ConfigError
from training.architectures import DENSENET, MAPS, VGG, binary_head, ensemble_head
from training.calibrate import cool, tempered
from training.distil import distil, settle_batch_norm
from training.heads import TASKS, Scale, after_pooling, fold, pool, train_head

TASK = {task.name: task for task in TASKS}


def maps_of(count: int, trunk: str, seed: int = 0) -> Any:
    """Random feature maps whose channels differ in size and offset, as real ones do."""
    rng = np.random.default_rng(seed)
    channels = MAPS[trunk][-1]
    return (rng.gamma(1, 1, (count, *MAPS[trunk])) * rng.uniform(0.1, 9, channels)).astype(np.float16)


@pytest.mark.parametrize(
    ("head", "trunks"), [(binary_head("ct"), [DENSENET]), (ensemble_head("xray"), [VGG, DENSENET])]
)
def test_a_folded_head_does_with_raw_maps_what_it_did_with_scaled_ones(head: Any, trunks: list[str]) -> None:
    maps = [maps_of(6, trunk) for trunk in trunks]
    pooled = [pool(part) for part in maps]
    scales = [Scale.of(part) for part in pooled]
    before = after_pooling(head)([scale.apply(part) for scale, part in zip(scales, pooled, strict=True)]).numpy()
    fold(head, scales)
    inputs = [part.astype(np.float32) for part in maps]
    np.testing.assert_allclose(head(inputs).numpy(), before, atol=2e-3)


def test_a_cooled_head_gives_the_tempered_probabilities() -> None:
    head = binary_head("ct")
    maps = maps_of(5, DENSENET).astype(np.float32)
    before = head([maps]).numpy()
    cool(head, 2.5)
    np.testing.assert_allclose(head([maps]).numpy(), tempered(before, 2.5, "sigmoid"), atol=1e-4)


def test_a_trained_head_tells_apart_what_it_was_shown() -> None:
    numbers = np.tile([0, 1], 20)
    pooled = pool(maps_of(40, DENSENET))
    pooled[numbers == 0, :, :, :40] *= 3
    train, val = ([pooled[:28]], numbers[:28]), ([pooled[28:]], numbers[28:])
    head, temperature = train_head(TASK["binary-ct"], train, val, epochs=6)
    guessed = after_pooling(head).predict([pooled[28:]], verbose=0).argmax(1)
    assert (guessed == numbers[28:]).all()
    assert temperature > 0


def test_the_heads_are_the_published_ones() -> None:
    binary = [(layer.units, layer.activation.__name__) for layer in binary_head("ct").layers if hasattr(layer, "units")]
    assert binary == [(128, "relu"), (64, "relu"), (2, "sigmoid")]
    rates = [layer.rate for layer in binary_head("ct").layers if isinstance(layer, layers.Dropout)]
    assert rates == [0.2, 0.3]
    units = {layer.name: layer.units for layer in ensemble_head("xray").layers if hasattr(layer, "units")}
    assert units == {
        "vgg16_dense_64": 64, "vgg16_dense_out": 64, "densenet201_dense_128": 128, "densenet201_dense_out": 64,
        "dense_64_a": 64, "dense_64_b": 64, "probabilities": 3,
    }  # fmt: skip


def small_network(block4: str, block5: str, width: int) -> Any:
    """Two convolutions with the layer names that distillation looks for, at strides 16 and 32."""
    pixels = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.AveragePooling2D(16)(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name=block4)(x)
    x = layers.AveragePooling2D(2)(x)
    return keras.Model(pixels, layers.Conv2D(width, 3, padding="same", activation="relu", name=block5)(x))


def test_distillation_explains_more_each_epoch_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 255, (64, 8, 8), dtype=np.uint8).repeat(28, 1).repeat(28, 2)
    teacher, student = (small_network(*names, 512) for names in (("block4_pool", "block5_pool"), ("pool4_relu", "x")))
    said: list[str] = []
    distil(student, teacher, images, 5, tmp_path, said.append)
    unexplained = [float(line.rsplit(" ", 1)[1]) for line in said]
    assert len(unexplained) == 5
    assert unexplained[-1] < unexplained[0] - 0.05
    resumed = small_network("pool4_relu", "x", 512)
    distil(resumed, teacher, images, 5, tmp_path, said.append)
    assert len(said) == 5
    for mine, kept in zip(resumed.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, kept)


def test_distillation_refuses_fewer_images_than_a_batch(tmp_path: Path) -> None:
    network = small_network("pool4_relu", "last", 8)
    with pytest.raises(ConfigError, match="at least 16"):
        distil(network, network, np.zeros((3, 224, 224), np.uint8), 1, tmp_path, print)


def test_settled_normalisation_knows_whole_images() -> None:
    pixels = keras.Input((None, None, 3))
    network = keras.Model(pixels, layers.BatchNormalization()(pixels))
    images = np.random.default_rng(0).normal(120, 20, (40, 16, 16)).astype(np.uint8)
    settle_batch_norm(network, images)
    seen = network(np.repeat(images.astype(np.float32)[..., np.newaxis], 3, -1), training=False).numpy()
    assert abs(seen.mean()) < 0.5
    assert seen.std() == pytest.approx(1, rel=0.1)
