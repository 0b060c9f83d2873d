"""Temperatures, thresholds and margins do what they were chosen for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.evaluation.measure import calibration_error
from training.heads.calibrate import (
    cross_tempered,
    fit_temperature,
    margins,
    negative_log_likelihood,
    operating_points,
    review_margin,
    tempered,
)


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
    raw, numbers = overconfident(20000, activation)
    assert fit_temperature(raw, numbers, activation) == pytest.approx(3, rel=0.1)


def overconfident(count: int, activation: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two classes; the logits are three times too large."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(count, 2))
    if activation == "softmax":
        p = 1 / (1 + np.exp(honest[:, 1] - honest[:, 0]))
        first = 1 / (1 + np.exp(3 * (honest[:, 1] - honest[:, 0])))
        raw = np.stack([first, 1 - first], 1)
    else:
        p = 1 / (1 + np.exp(-honest[:, 0]))
        raw = np.stack([1 / (1 + np.exp(-3 * honest[:, 0])), 1 / (1 + np.exp(3 * honest[:, 0]))], 1)
    return raw, (rng.random(count) > p).astype(np.int64)


def test_a_temperature_of_one_changes_nothing() -> None:
    p = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(tempered(p, 1, "softmax"), p)
    np.testing.assert_allclose(tempered(p, 1, "sigmoid"), p)


def test_each_part_is_tempered_with_what_the_others_say() -> None:
    raw, numbers = overconfident(4000, "softmax")
    parts = [np.arange(start, 4000, 5) for start in range(5)]
    found = cross_tempered(raw, numbers, parts, "softmax")
    assert calibration_error(raw, numbers) > 0.1
    assert calibration_error(found, numbers) < 0.03
    # A part's own truth has no say in its answers.
    changed = numbers.copy()
    changed[parts[2]] = 1 - changed[parts[2]]
    np.testing.assert_array_equal(cross_tempered(raw, changed, parts, "softmax")[parts[2]], found[parts[2]])


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60))
def test_a_threshold_reaches_its_sensitivity_and_no_higher_one_does(seed: int, sick: int, well: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = np.repeat([1, 0], [sick, well])
    # Rounded, so that there are ties.
    scores = np.clip(rng.normal(0.3 + 0.3 * numbers, 0.2), 0.01, 0.99).round(2)
    probabilities = np.stack([1 - scores, scores], 1)
    points = operating_points(probabilities, numbers, positive=1)
    assert [point.target_sensitivity for point in points] == [0.90, 0.95, 0.98]
    for point in points:
        said = scores >= point.threshold
        assert point.sensitivity == pytest.approx(said[numbers == 1].mean())
        assert point.specificity == pytest.approx((~said)[numbers == 0].mean())
        assert point.sensitivity >= point.target_sensitivity
        higher = scores > scores[said].min()
        assert higher[numbers == 1].mean() < point.target_sensitivity


def test_thresholds_survive_rounding() -> None:
    probabilities = np.array([[0.7, 0.3], [0.8, 0.2], [0.1, 0.9]], dtype=np.float32)
    for point in operating_points(probabilities, np.array([1, 0, 1]), positive=1):
        assert point.threshold == pytest.approx(0.25)


@pytest.mark.parametrize("numbers", [[0, 0], [1, 1]])
def test_no_threshold_without_both_sides(numbers: list[int]) -> None:
    assert operating_points(np.array([[0.5, 0.5], [0.2, 0.8]]), np.array(numbers), positive=1) == ()


def answers(count: int, right_when_close: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Predictions of two classes that are right when clear, and right at a rate when the margin is below 0.2."""
    rng = np.random.default_rng(2)
    lead = rng.random(count)
    right = (lead >= 0.2) | (rng.random(count) < right_when_close)
    return np.stack([(1 + lead) / 2, (1 - lead) / 2], 1), (~right).astype(np.int64)


def test_close_calls_that_are_mostly_right_need_no_review() -> None:
    assert review_margin(*answers(3000, 1.0)) == 0


def test_review_takes_the_close_calls_that_are_often_wrong() -> None:
    probabilities, numbers = answers(3000, 0.5)
    margin = review_margin(probabilities, numbers, most=0.5)
    sent = margins(probabilities) < margin
    accuracy = (probabilities.argmax(1) == numbers)[sent].mean()
    # Half of the 20 % are wrong, so as many right ones are taken along as bring these to three in four.
    assert accuracy == pytest.approx(0.75, abs=0.01)
    assert sent.mean() == pytest.approx(0.4, abs=0.03)


def test_review_never_takes_more_than_its_share() -> None:
    probabilities, numbers = answers(3000, 0.0)
    margin = review_margin(probabilities, numbers)
    assert (margins(probabilities) < margin).mean() == pytest.approx(0.15, abs=0.001)


def test_the_margin_is_the_lead_of_the_likeliest_class() -> None:
    np.testing.assert_allclose(margins(np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])), [0.2, 0.8])
