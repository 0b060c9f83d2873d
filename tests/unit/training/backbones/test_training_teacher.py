"""The teacher is the network that was trained on ImageNet: it still knows a cat and a cup of coffee."""

from __future__ import annotations

import io
import pickle
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from shared.errors import ConfigError
from training.backbones.efficientnet_lite import Weights, efficientnet_lite2, lite_weights, read_tensors

#: ImageNet's numbers of tabby, tiger cat and Egyptian cat; of espresso and cup.
CATS, COFFEE = {281, 282, 285}, {967, 968}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return lite_weights()


def named(weights: Weights, maps: Any) -> int:
    """The ImageNet class that the package's own last layers give to a last map (1, h, w, 352)."""
    x = np.asarray(maps) @ weights["_conv_head.weight"][:, :, 0, 0].T
    normal = (x - weights["_bn1.running_mean"]) / np.sqrt(weights["_bn1.running_var"] + 1e-3)
    seen = np.clip(normal * weights["_bn1.weight"] + weights["_bn1.bias"], 0, 6).mean((0, 1, 2))
    return int(np.argmax(weights["_fc.weight"] @ seen + weights["_fc.bias"]))


@pytest.mark.parametrize(("picture", "classes"), [(data.chelsea, CATS), (data.coffee, COFFEE)])
def test_it_knows_what_it_was_trained_on(weights: Weights, picture: Any, classes: set[int]) -> None:
    whole = picture()
    side = min(whole.shape[:2])
    left = (whole.shape[1] - side) // 2
    square = cv2.resize(whole[:side, left : left + side], (256, 256), interpolation=cv2.INTER_AREA)
    fine, middle, coarse = efficientnet_lite2(weights)(square[np.newaxis].astype(np.float32), training=False)
    assert (fine.shape, middle.shape, coarse.shape) == ((1, 32, 32, 288), (1, 16, 16, 720), (1, 8, 8, 352))
    assert named(weights, coarse) in classes


def test_a_file_that_names_anything_but_tensors_is_refused() -> None:
    stream = io.BytesIO(b"".join(pickle.dumps(part) for part in (1, 1, 1)) + pickle.dumps(io.BytesIO))
    with pytest.raises(ConfigError, match=r"_io.BytesIO, which is no tensor"):
        read_tensors(stream)
