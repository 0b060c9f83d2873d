"""A head does not hang on what another engine does to the means, and learns the rest as it would have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.unit.training.test_training_refit import useful_study
from tests.unit.training.test_training_sources import study
from training.heads.left_out_classes import ClassStudy
from training.heads.left_out_sources import Fit
from training.heads.rounding import axes


def test_without_any_difference_the_axes_are_those_of_the_means() -> None:
    assert np.allclose(axes(np.zeros((5, 3), np.float32), 0.1, 100), np.eye(3))


def test_the_penalty_is_that_of_exaggerated_noise() -> None:
    rng = np.random.default_rng(4)
    turned = axes(rng.normal(0, 0.1, (50, 4)).astype(np.float32), 0.1, 100)
    # On an axis along which engines differ a weight costs more, so that the same weight reaches less far there.
    lengths = np.linalg.norm(turned, axis=0)
    assert (lengths < 1).all()
    other = axes(np.array([[0.3, 0, 0]], np.float32), 0.1, 100)
    assert other[0, 0] < 0.2
    assert np.allclose(np.diag(other)[1:], 1)


def test_a_binary_head_leaves_the_channel_that_rounding_changes() -> None:
    one = useful_study()
    means = np.column_stack([one.means, one.means[:, 0]]).astype(np.float32)
    rounding = np.zeros((20, means.shape[1]), np.float32)
    rounding[:, 0] = np.tile([1, -1], 10)
    plain = replace(one, means=means, how=Fit(1e-2), _fitted={}).fit()
    bearing = replace(one, means=means, how=Fit(1e-2), rounding=rounding, _fitted={}).fit()
    assert plain is not None
    assert bearing is not None
    assert np.isclose(plain.kernel[0], plain.kernel[-1], rtol=0.05)
    assert abs(bearing.kernel[0]) < 0.05 * bearing.kernel[-1]


def test_so_does_an_ensemble() -> None:
    one = useful_study()
    rounding = np.zeros((20, one.means.shape[1]), np.float32)
    rounding[:, 0] = 1
    classes = [ClassStudy(one, {"only": one.means}, one.numbers, 2, 1e-2, given) for given in ({}, {"only": rounding})]
    (plain, _), (bearing, _) = (each.fit()[0] for each in classes)
    assert np.abs(bearing[0]).max() < 0.1 * np.abs(plain[0]).max()


def test_images_of_a_source_that_counts_more_have_more_to_say() -> None:
    """What says COVID-19 at three sources says the opposite at the fourth."""
    one = study()
    alike = one.fit()
    swayed = replace(one, how=replace(one.how, counts={"d": 30}), _fitted={}).fit()
    assert alike is not None
    assert swayed is not None
    assert alike.kernel[1] > 0
    assert swayed.kernel[1] < 0
