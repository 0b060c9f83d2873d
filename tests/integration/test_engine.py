"""The shipped bundle on the real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.bundle import Bundle
from shared.errors import ModelError
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import prepare
from worker.engine import TensorFlowEngine

ROOT = Path(__file__).parents[2]
MODELS, SAMPLES = ROOT / "models" / "thoraq-1", ROOT / "samples"
HEADS = ("binary-xray", "binary-ct", "ensemble-xray")


@pytest.fixture(scope="module")
def engine() -> TensorFlowEngine:
    return TensorFlowEngine(Bundle.open(MODELS), max_batch=4)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """The sample X-rays, prepared; the first is of a COVID-19 patient, the second is normal."""
    files = [
        "xray-covid19.jpg",
        "xray-normal.png",
        "xray-pneumonia.jpg",
        "xray-two-views-1.jpg",
        "xray-two-views-2.jpg",
    ]
    spec = Bundle.open(MODELS, verify=False).input
    return np.stack([prepare(decode_one((SAMPLES / file).read_bytes(), Limits()), spec) for file in files])


def test_every_head_gives_one_probability_per_class(engine: TensorFlowEngine, images: NDArray[np.uint8]) -> None:
    engine.warm_up()
    found = engine.predict(images, HEADS)
    classes = {name: len(head.classes) for name, head in Bundle.open(MODELS, verify=False).heads.items()}
    assert {name: part.shape for name, part in found.items()} == {name: (len(images), classes[name]) for name in HEADS}
    for part in found.values():
        assert part.dtype == np.float32
        assert ((part >= 0) & (part <= 1)).all()
        # Different pictures get different answers; otherwise the comparisons below would prove nothing.
        assert np.ptp(part, axis=0).max() > 0.1
    np.testing.assert_allclose(found["ensemble-xray"].sum(1), 1, atol=1e-5)


def test_an_image_gets_the_same_answer_alone_and_in_a_batch(
    engine: TensorFlowEngine, images: NDArray[np.uint8]
) -> None:
    together = engine.predict(images, HEADS)
    alone = [engine.predict(images[row : row + 1], HEADS) for row in range(len(images))]
    for name in HEADS:
        np.testing.assert_allclose(np.concatenate([part[name] for part in alone]), together[name], atol=1e-4)


def test_heads_asked_together_answer_as_when_asked_apart(engine: TensorFlowEngine, images: NDArray[np.uint8]) -> None:
    together = engine.predict(images, HEADS)
    for name in HEADS:
        np.testing.assert_allclose(engine.predict(images, [name])[name], together[name], atol=1e-5)


def test_the_covid19_sample_scores_above_the_normal_one(engine: TensorFlowEngine, images: NDArray[np.uint8]) -> None:
    found = engine.predict(images[:2], ["binary-xray", "ensemble-xray"])
    assert found["binary-xray"][0, 0] > found["binary-xray"][1, 0]
    assert found["ensemble-xray"][0, 2] > found["ensemble-xray"][1, 2]


def test_no_image_gives_no_row(engine: TensorFlowEngine) -> None:
    assert engine.predict(np.empty((0, 224, 224), np.uint8), ["ensemble-xray"])["ensemble-xray"].shape == (0, 3)


def test_an_unknown_head_and_wrong_pixels_are_refused(engine: TensorFlowEngine) -> None:
    with pytest.raises(ModelError, match="no head nonsense"):
        engine.predict(np.zeros((1, 224, 224), np.uint8), ["nonsense"])
    with pytest.raises(ValueError, match=r"takes \(N, 224, 224\) uint8"):
        engine.predict(np.zeros((1, 100, 100), np.uint8), ["binary-ct"])
