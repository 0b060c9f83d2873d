"""The gate of the default bundle on real samples and on pictures that are no chest images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.config import Settings
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import prepare
from shared.inference.bundle import Bundle
from shared.inference.gate import REASON, Gate, Verdict
from shared.inference.tensorflow_engine import TensorFlowEngine
from training.gate.drawings import MEASURING

ROOT = Path(__file__).parents[4]
SAMPLES = {
    "xray-normal.png": "xray",
    "xray-normal.dcm": "xray",
    "xray-pneumonia.jpg": "xray",
    "xray-covid19.jpg": "xray",
    "ct-slice.dcm": "ct",
}
DEFAULT = ROOT / Settings.model_fields["model_dir"].default
# A bundle without a gate judges nothing.
GATED = [path for path in (DEFAULT,) if Bundle.open(path, verify=False).card.gate]


@pytest.fixture(scope="module", params=GATED, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.param)


def judged(bundle: Bundle, pictures: list[np.ndarray[tuple[int, int], np.dtype[np.uint8]]]) -> list[Verdict]:
    gate = Gate.load(bundle)
    images = np.stack([prepare(picture, bundle.input) for picture in pictures])
    return gate.judge(TensorFlowEngine(bundle, max_batch=4).feature_maps(images, [gate.backbone])[gate.backbone])


def test_the_samples_pass_as_what_they_are(bundle: Bundle) -> None:
    pictures = [decode_one((ROOT / "samples" / name).read_bytes(), Limits()) for name in SAMPLES]
    verdicts = judged(bundle, pictures)
    assert [verdict.kind for verdict in verdicts] == list(SAMPLES.values())
    assert [verdict.reason for verdict in verdicts] == [None] * len(SAMPLES)


def test_drawings_of_kinds_that_fitting_never_saw_are_rejected(bundle: Bundle) -> None:
    rng = np.random.default_rng(7)
    verdicts = judged(bundle, [draw(rng, bundle.input.size) for draw in MEASURING.values() for _ in range(4)])
    rejected = [verdict.reason == REASON for verdict in verdicts if verdict.kind == "other"]
    assert all(rejected)
    assert len(rejected) >= 0.9 * len(verdicts)


def test_an_x_ray_upside_down_or_as_a_negative_is_rejected(bundle: Bundle) -> None:
    picture = decode_one((ROOT / "samples" / "xray-normal.png").read_bytes(), Limits())
    verdicts = judged(bundle, [np.ascontiguousarray(picture[::-1]), np.asarray(255 - picture, np.uint8)])
    assert [verdict.kind for verdict in verdicts] == ["other", "other"]
