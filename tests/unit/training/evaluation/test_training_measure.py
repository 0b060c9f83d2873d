"""The numbers on a card mean what their names say, and so do their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from shared.inference.bundle import OperatingPoint
from training.evaluation.measure import (
    BINS,
    RESAMPLES,
    Bootstrap,
    Draws,
    Weights,
    against_each,
    area,
    calibration_error,
    measure,
    overall,
    ranged,
    share,
    summarise_folds,
)

CLASSES = ("normal", "pneumonia", "covid19")


def test_measures_of_a_small_case_worked_by_hand() -> None:
    numbers = np.array([0, 0, 1, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    found = measure(probabilities, numbers, CLASSES, ["a", "b", "c", "d"])
    assert found["scores"]["accuracy"] == 0.75
    assert found["confusion"]["counts"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    normal, pneumonia = found["classes"]["normal"], found["classes"]["pneumonia"]
    assert (normal["sensitivity"], normal["specificity"], normal["precision"]) == (0.5, 1.0, 1.0)
    assert (pneumonia["sensitivity"], pneumonia["precision"]) == (1.0, 0.5)
    assert pneumonia["specificity"] == pytest.approx(2 / 3)
    assert found["scores"]["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # Four predictions of 0.8 of which three are right.
    assert found["scores"]["ece"] == pytest.approx(0.05)
    low, high = found["intervals"]["accuracy"]
    assert low <= 0.75 <= high


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_an_image_that_counts_three_times_is_an_image_that_occurs_three_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers, times = rng.integers(3, size=30), rng.integers(0, 4, size=30)
    # Few different values: ties are where a ROC curve goes wrong.
    probabilities = rng.integers(1, 4, size=(30, 3)) / 4
    repeated = np.repeat(np.arange(30), times)
    if not len(repeated):
        return
    counted = overall(probabilities, numbers, times[np.newaxis].astype(float))
    written = overall(probabilities[repeated], numbers[repeated], np.ones((1, len(repeated))))
    for name, value in written.items():
        np.testing.assert_allclose(counted[name], value, err_msg=name)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = np.concatenate([np.arange(3), rng.integers(3, size=30)])
    probabilities, times = rng.integers(1, 5, size=(33, 3)) / 5, rng.integers(1, 4, size=33)
    found = overall(probabilities, numbers, times[np.newaxis].astype(float))
    macro = f1_score(numbers, probabilities.argmax(1), average="macro", sample_weight=times)
    areas = [roc_auc_score(numbers == k, probabilities[:, k], sample_weight=times) for k in range(3)]
    assert found["macro_f1"][0] == pytest.approx(macro)
    assert found["auc"][0] == pytest.approx(np.mean(areas))


def test_the_interval_is_that_of_drawing_whole_patients_one_draw_after_the_other() -> None:
    rng = np.random.default_rng(3)
    # Each patient has images that are all easy or all hard, so that drawing single images would say too little.
    owner = np.arange(90) % 17
    right = rng.random(90) < np.where(owner % 2, 0.95, 0.4)
    found = Bootstrap.of([f"p{number}" for number in owner]).shares(right=right)[1]["right"]
    rows = [np.flatnonzero(owner == number) for number in range(17)]
    samples = [np.concatenate([right[rows[i]] for i in rng.integers(17, size=17)]).mean() for _ in range(4000)]
    assert found == pytest.approx(np.percentile(samples, [2.5, 97.5]), abs=0.02)


def test_copies_of_one_patient_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(2, size=40)
    probabilities = np.eye(2)[np.where(rng.random(40) < 0.7, numbers, 1 - numbers)]
    patients = [f"p{row}" for row in range(40)]
    once = measure(probabilities, numbers, ("a", "b"), patients)["intervals"]
    nine = measure(np.tile(probabilities, (9, 1)), np.tile(numbers, 9), ("a", "b"), patients * 9)["intervals"]
    for name, span in once.items():
        assert nine[name] == pytest.approx(span), name


def test_draws_are_worked_through_in_blocks_of_bounded_size_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    flags = rng.random(50) < 0.3
    bootstrap = Bootstrap.of([f"p{row // 2}" for row in range(50)])
    whole = bootstrap.shares(rejected=flags)
    monkeypatch.setattr("training.evaluation.measure.BLOCK", 200)
    sizes = []

    def rejected(weights: Weights) -> dict[str, Draws]:
        sizes.append(weights.size)
        return {"rejected": share(weights, flags)}

    pieces = bootstrap.estimate(rejected)
    assert pieces == whole
    assert max(sizes) <= 250
    assert len(sizes) > RESAMPLES / 5


def test_one_class_alone_has_no_roc_curve() -> None:
    found = measure(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), ("covid19", "not_covid19"), ["a", "b"])
    assert "auc" not in found["scores"]
    assert found["classes"]["covid19"]["specificity"] is None
    assert "specificity" not in found["classes"]["covid19"]["intervals"]
    assert ranged(found["classes"]["covid19"], "specificity") == "-"


def test_a_draw_without_positives_has_no_area() -> None:
    scores, truth = np.array([0.2, 0.9]), np.array([False, True])
    found = area(scores, truth, np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    assert found[0] == 1
    assert np.isnan(found[1:]).all()


def test_certain_and_right_is_perfectly_calibrated() -> None:
    assert calibration_error(np.eye(3), np.arange(3)) == 0
    assert calibration_error(np.eye(3), np.array([1, 2, 0])) == 1


def test_calibration_error_weighs_bins_by_what_is_in_them() -> None:
    # Three of 0.95, all right; one of 0.55, wrong.
    probabilities = np.array([[0.95, 0.05]] * 3 + [[0.55, 0.45]])
    assert BINS == 10
    assert calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0.75 * 0.05 + 0.25 * 0.55)


def test_what_goes_to_review_and_what_that_buys() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.52, 0.48]])
    sent = np.array([False, False, True, True])
    found = measure(probabilities, np.array([0, 0, 1, 0]), ("a", "b"), list("wxyz"), to_review=sent)["review"]
    assert (found["share"], found["accuracy_kept"], found["accuracy_sent"]) == (0.5, 1.0, 0.5)
    assert found["intervals"].keys() == {"share", "accuracy_kept", "accuracy_sent"}


def test_a_threshold_is_measured_where_it_was_not_chosen() -> None:
    probabilities = np.array([[0.3, 0.7], [0.1, 0.9], [0.4, 0.6], [0.05, 0.95]])
    point = OperatingPoint(target_sensitivity=0.9, threshold=0.3, sensitivity=1, specificity=1)
    found = measure(probabilities, np.array([0, 0, 1, 1]), ("covid19", "rest"), list("wxyz"), points=[point])
    (tested,) = found["operating_points"]
    assert (tested["threshold"], tested["sensitivity"], tested["specificity"]) == (0.3, 0.5, 0.5)


def test_one_label_against_another_leaves_out_the_third() -> None:
    labels = ["normal", "normal", "pneumonia", "pneumonia", "covid19", "covid19"]
    # Of COVID-19 and normal, the first COVID-19 image is likelier normal; pneumonia would win over both.
    probabilities = np.array(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]]
    )
    numbers = np.array([0, 0, 1, 1, 2, 2])
    found = against_each(probabilities, numbers, labels, [f"p{row}" for row in range(6)], "covid19")
    assert found.keys() == {"normal", "pneumonia"}
    assert found["normal"]["images"] == 4
    assert found["normal"]["accuracy"] == 0.75
    assert found["normal"]["intervals"].keys() >= {"accuracy", "auc"}


def test_two_labels_make_one_pair_which_is_the_whole() -> None:
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7]])
    assert against_each(probabilities, np.array([0, 1]), ["covid19", "non_covid19"], ["a", "b"], "covid19") == {}


def test_a_classifier_that_knows_one_rest_is_held_against_each_label_of_it() -> None:
    labels = ["covid19", "normal", "pneumonia", "covid19"]
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.8, 0.2]])
    found = summarise_folds(
        probabilities, np.array([0, 1, 1, 0]), ("covid19", "not_covid19"), list("abcd"), labels=labels,
        against="covid19", note="five folds",
    )  # fmt: skip
    assert found["against"]["normal"]["accuracy"] == 1
    assert found["against"]["pneumonia"]["accuracy"] == pytest.approx(2 / 3)
    assert found["note"] == "five folds"
    assert found["confusion"]["counts"] == [[2, 0], [1, 1]]
