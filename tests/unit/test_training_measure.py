"""The numbers on a card mean what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibrate import fit_temperature, negative_log_likelihood, tempered
from training.measure import calibration_error, measure

CLASSES = ("normal", "pneumonia", "covid19")


@given(st.integers(0, 1000), st.sampled_from(["softmax", "sigmoid"]), st.floats(0.2, 6))
def test_the_fitted_temperature_never_makes_held_out_truth_more_surprising(
    seed: int, activation: str, sharpness: float
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(3, size=60)
    logits = sharpness * (np.eye(3)[numbers] + rng.normal(size=(60, 3)))
    raw = (
        np.exp(logits) / np.exp(logits).sum(1, keepdims=True) if activation == "softmax" else 1 / (1 + np.exp(-logits))
    )
    temperature = fit_temperature(raw, numbers, activation)
    after = negative_log_likelihood(tempered(raw, temperature, activation), numbers, activation)
    assert after <= negative_log_likelihood(raw, numbers, activation) + 1e-9


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_overconfidence_by_a_known_factor_is_found(activation: str) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20000, 2))
    if activation == "softmax":
        p = 1 / (1 + np.exp(honest[:, 1] - honest[:, 0]))
        numbers = (rng.random(len(p)) > p).astype(np.int64)
        raw = np.stack([1 / (1 + np.exp(3 * (honest[:, 1] - honest[:, 0])))] * 2, 1)
        raw[:, 1] = 1 - raw[:, 0]
    else:
        p = 1 / (1 + np.exp(-honest[:, 0]))
        numbers = (rng.random(len(p)) > p).astype(np.int64)
        raw = np.stack([1 / (1 + np.exp(-3 * honest[:, 0])), 1 / (1 + np.exp(3 * honest[:, 0]))], 1)
    assert fit_temperature(raw, numbers, activation) == pytest.approx(3, rel=0.1)


def test_a_temperature_of_one_changes_nothing() -> None:
    p = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(tempered(p, 1, "softmax"), p)
    np.testing.assert_allclose(tempered(p, 1, "sigmoid"), p)


def test_measures_of_a_small_case_worked_by_hand() -> None:
    numbers = np.array([0, 0, 1, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    found = measure(probabilities, numbers, CLASSES, ["a", "b", "c", "d"])
    assert found["scores"]["accuracy"] == 0.75
    assert found["confusion"]["counts"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["classes"]["normal"] == {"sensitivity": 0.5, "specificity": 1.0}
    assert found["classes"]["pneumonia"] == {"sensitivity": 1.0, "specificity": pytest.approx(2 / 3)}
    assert found["scores"]["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # Four predictions of 0.8 of which three are right.
    assert found["ece"] == pytest.approx(0.05)
    low, high = found["intervals"]["accuracy"]
    assert low <= 0.75 <= high


def test_copies_of_one_patient_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(2, size=40)
    probabilities = np.eye(2)[np.where(rng.random(40) < 0.7, numbers, 1 - numbers)]
    patients = [f"p{row}" for row in range(40)]
    once = measure(probabilities, numbers, ("a", "b"), patients)["intervals"]["accuracy"]
    nine = measure(np.tile(probabilities, (9, 1)), np.tile(numbers, 9), ("a", "b"), patients * 9)
    assert nine["intervals"]["accuracy"] == pytest.approx(once)


def test_one_class_alone_has_no_roc_curve() -> None:
    found = measure(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), ("covid19", "not_covid19"), ["a", "b"])
    assert "auc" not in found["scores"]
    assert found["classes"]["covid19"]["specificity"] is None


def test_certain_and_right_is_perfectly_calibrated() -> None:
    assert calibration_error(np.eye(3), np.arange(3)) == 0
    assert calibration_error(np.eye(3), np.array([1, 2, 0])) == 1
