"""Heads and distillation on networks small enough to train in seconds; what they compute is the real thing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.linear_model import LogisticRegression

from shared.errors import ConfigError
from training.architectures import CHANNELS, DENSENET, SIDE, VGG, binary_head, ensemble_head
from training.backbones.distil import distil, settle_batch_norm
from training.heads.calibrate import apply_temperature, tempered
from training.heads.cross_validation import Plan, cross_validate, select_hyperparameters, splits_of, train
from training.heads.learner import Learner, first_dense
from training.heads.shrinkage import carry, shrunken
from training.tasks import BRANCHES, TASKS
from training.views import Examples, beside, keep, pooled, pooled_mean, views

TASK = {task.name: task for task in (*TASKS, *BRANCHES)}


def maps_of(count: int, backbone: str, seed: int = 0) -> Any:
    """Random feature maps whose channels differ in size and offset, as real ones do."""
    rng = np.random.default_rng(seed)
    shape = (count, SIDE, SIDE, CHANNELS[backbone])
    return (rng.gamma(1, 1, shape) * rng.uniform(0.1, 9, shape[-1])).astype(np.float32)


def kept_of(maps: Any) -> Any:
    """One view of each image, as a finished backbone's maps are kept."""
    return pooled_mean(maps)[np.newaxis].astype(np.float16)


def small_backbone() -> Any:
    """A VGG16 from its fourth pool on, behind one layer that stands for the rest."""
    pixels = keras.Input((None, None, 512))
    x = layers.Activation("linear", name="block4_pool")(pixels)
    x = layers.Conv2D(512, 1, activation="relu")(x)
    return keras.Model(pixels, layers.MaxPooling2D(2)(x))


def test_a_head_does_with_whole_maps_what_its_twin_learnt_on_means() -> None:
    task, numbers = TASK["binary-ct"], np.tile([0, 1], 20)
    maps = maps_of(40, DENSENET)
    maps[numbers == 0, :, :, :40] *= 3
    examples = Examples({DENSENET: kept_of(maps)}, numbers)
    learner = Learner(task, {}, examples, np.arange(28))
    learner.carry(learner.shrink([1e-2], examples, np.arange(28)), [1.0])
    held = np.arange(28, 40)
    probabilities = learner.predict(examples, held)
    assert (probabilities.argmax(1) == numbers[held]).all()
    np.testing.assert_allclose(learner.head()([maps[held]]).numpy(), probabilities, atol=5e-3)


def test_an_upper_block_is_trained_in_place_and_only_in_its_stage() -> None:
    task, numbers = TASK["ensemble-xray-vgg16"], np.tile([0, 1, 2], 8)
    backbone = small_backbone()
    at_cut = np.random.default_rng(0).gamma(1, 1, (1, 24, 14, 14, 512)).astype(np.float16)
    examples, rows = Examples({VGG: at_cut}, numbers), np.arange(24)
    learner, before = Learner(task, {VGG: backbone}, examples, rows), backbone.get_weights()
    learner.carry(learner.shrink([1e-3], examples, rows), [1.0])
    for mine, was in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, was)
    learner.raise_upper(1, examples, rows)
    assert not np.array_equal(backbone.get_weights()[0], before[0])
    maps = backbone(at_cut[0].astype(np.float32)).numpy()
    np.testing.assert_allclose(learner.head()([maps]).numpy(), learner.predict(examples, rows), atol=5e-3)


def test_every_fold_is_answered_by_what_did_not_train_on_it() -> None:
    task = TASK["binary-xray"]
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2, 60)
    # Labels that nothing predicts: whoever has seen an image remembers it, whoever has not guesses.
    examples = Examples({DENSENET: rng.normal(size=(1, 60, 1, 1, 1920)).astype(np.float16)}, numbers)
    parts = [np.arange(start, 60, 3) for start in range(3)]
    plan = Plan((0.1,))
    said: list[str] = []
    found = cross_validate(task, dict, plan, examples, parts, said.append)
    learner, _ = train(task, dict, plan, examples, np.arange(60))
    assert (learner.predict(examples, np.arange(60)).argmax(1) == numbers).mean() > 0.95
    assert (found.probabilities.argmax(1) == numbers).mean() < 0.75
    assert len(said) == 3


def test_shrinkage_is_settled_where_validation_is_best() -> None:
    task, rng = TASK["binary-ct"], np.random.default_rng(0)
    examples = Examples({DENSENET: rng.normal(size=(1, 40, 1, 1, 1920)).astype(np.float16)}, rng.integers(0, 2, 40))
    plan = select_hyperparameters(task, {}, examples, [(np.arange(30), np.arange(30, 40))])
    learner = Learner(task, {}, examples, np.arange(30))
    learner.carry(learner.shrink(plan.strengths, examples, np.arange(30)), plan.shares)
    losses = {float(row["strength"]): row["val_loss"] for row in plan.log}
    assert losses[plan.strengths[0]] == min(losses.values())
    again, _ = train(task, dict, plan, examples, np.arange(30))
    np.testing.assert_allclose(again.predict(examples, np.arange(40)), learner.predict(examples, np.arange(40)))


def test_shrinkage_is_settled_on_all_validation_parts_together() -> None:
    task, rng = TASK["binary-ct"], np.random.default_rng(0)
    examples = Examples({DENSENET: rng.normal(size=(1, 45, 1, 1, 1920)).astype(np.float16)}, rng.integers(0, 2, 45))
    splits = splits_of([np.arange(start, 45, 3) for start in range(3)])
    plan = select_hyperparameters(task, {}, examples, splits)
    held = np.zeros((45, 2), np.float32)
    for train_rows, val in splits:
        learner, _ = train(task, dict, plan, examples, train_rows)
        held[val] = learner.predict(examples, val)
    (best,) = [row for row in plan.log if float(row["strength"]) == plan.strengths[0]]
    assert best["val_accuracy"] == pytest.approx((held.argmax(1) == examples.numbers).mean())
    assert best["val_loss"] == min(row["val_loss"] for row in plan.log)


@pytest.mark.parametrize("name", list(TASK))
def test_a_head_carries_the_regression_that_was_fitted(name: str) -> None:
    task, rng = TASK[name], np.random.default_rng(0)
    classes, width = len(task.classes), sum(CHANNELS[backbone] for backbone in task.backbones)
    means, numbers = rng.normal(size=(90, width)).astype(np.float32), np.arange(90) % classes
    kernel, bias = shrunken(means, numbers, np.ones(90, np.float32), 1e-3, classes)
    head = task.head(side=2)
    carry(head, first_dense(head), kernel, bias)
    maps = np.split(means, np.cumsum([CHANNELS[backbone] for backbone in task.backbones])[:-1], axis=1)
    got = head([np.broadcast_to(part[:, None, None], (90, 2, 2, part.shape[1])) for part in maps]).numpy()
    model = LogisticRegression(C=1e-3, max_iter=500, tol=1e-3).fit(means, numbers)
    np.testing.assert_allclose(got, model.predict_proba(means), atol=1e-4)


def test_an_ensembles_logits_are_the_weighted_mean_of_its_branches_logits() -> None:
    rng, numbers = np.random.default_rng(0), np.arange(60) % 3
    kept = {
        backbone: rng.normal(size=(2, 60, 1, 1, CHANNELS[backbone])).astype(np.float16) for backbone in (VGG, DENSENET)
    }
    examples, rows = Examples(kept, numbers), np.arange(60)
    logits = []
    for task, shares in zip((*BRANCHES, TASK["ensemble-xray"]), ([1.0], [1.0], [0.3, 0.7]), strict=True):
        learner = Learner(task, {}, examples, rows)
        learner.carry(learner.shrink([3e-3] * len(task.backbones), examples, rows), shares)
        found = np.log(learner.predict(examples, rows))
        logits.append(found - found.mean(1, keepdims=True))  # a softmax tells them but for a constant
    np.testing.assert_allclose(logits[2], 0.3 * logits[0] + 0.7 * logits[1], atol=1e-3)


def test_a_branch_that_guesses_has_little_to_say() -> None:
    rng, numbers = np.random.default_rng(0), np.arange(120) % 3
    means = {backbone: rng.normal(size=(1, 120, 1, 1, CHANNELS[backbone])) for backbone in (VGG, DENSENET)}
    means[DENSENET][..., :30] += 0.7 * (numbers[:, None] == np.arange(30) % 3)[None, :, None, None]
    examples = Examples({backbone: kept.astype(np.float16) for backbone, kept in means.items()}, numbers)
    plan = select_hyperparameters(TASK["ensemble-xray"], {}, examples, [(np.arange(80), np.arange(80, 120))])
    assert plan.shares[1] >= 0.7
    alone = select_hyperparameters(
        TASK["ensemble-xray-densenet201"], {}, examples, [(np.arange(80), np.arange(80, 120))]
    )
    assert plan.branch(1).strengths == alone.strengths


def test_a_head_bears_what_rounding_does_to_the_means() -> None:
    """Two channels say the same, and rounding spoils the first: the head listens to the second."""
    rng, numbers = np.random.default_rng(0), np.tile([0, 1], 100)
    maps = rng.normal(size=(200, 2, 2, 1920)).astype(np.float32)
    maps[..., :2] += 2.0 * numbers[:, None, None, None]
    rounded = maps.copy()
    rounded[..., 0] += rng.normal(scale=0.3, size=(200, 1, 1))
    straight, other = pooled(lambda which: maps[which]), pooled(lambda which: rounded[which])
    heard = []
    for read in (straight, beside(straight, other)):
        examples = Examples({DENSENET: np.stack(read(np.arange(200, dtype=np.uint8)))}, numbers)
        learner = Learner(TASK["binary-ct"], {}, examples, np.arange(200))
        ((kernel, _),) = learner.shrink([1e-1], examples, np.arange(200))
        heard.append(kernel[0, 1] / kernel[1, 1])
    assert heard[0] == pytest.approx(1, rel=0.2)
    assert heard[1] < 0.3


def test_first_readings_of_all_views_are_kept_before_second_ones() -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
    run = pooled(lambda seen: np.repeat(seen[..., np.newaxis].astype(np.float32), 2, axis=-1))
    kept = keep({DENSENET: beside(run, run), VGG: run}, images, 1, "X-ray")
    assert kept[DENSENET].shape == (9, 20, 1, 1, 2)
    assert kept[VGG].shape == (3, 20, 1, 1, 2)
    # Nothing is rounded here, so the further readings are the first ones again.
    np.testing.assert_array_equal(kept[DENSENET][3:6], kept[VGG])


def test_views_begin_with_the_image_and_its_mirror_image_and_repeat_themselves() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    first, second = list(views(images, 2)), list(views(images, 2))
    assert len(first) == 4
    np.testing.assert_array_equal(first[0], images)
    np.testing.assert_array_equal(first[1], images[:, :, ::-1])
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


def test_a_cooled_head_gives_the_tempered_probabilities() -> None:
    head = binary_head("ct")
    maps = maps_of(5, DENSENET)
    before = head([maps]).numpy()
    apply_temperature(head, 2.5)
    np.testing.assert_allclose(head([maps]).numpy(), tempered(before, 2.5, "sigmoid"), atol=1e-4)


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


def small_student() -> Any:
    """Two convolutions at strides 16 and 32, the first with the layer name that distillation looks for."""
    pixels = keras.Input((None, None, 3))
    x = layers.AveragePooling2D(16)(layers.Rescaling(1 / 255)(pixels))
    x = layers.BatchNormalization()(layers.Conv2D(64, 3, padding="same")(x))
    x = layers.Activation("relu", name="pool4_relu")(x)
    return keras.Model(pixels, layers.Conv2D(64, 3, padding="same", activation="relu")(layers.AveragePooling2D(2)(x)))


def small_teacher() -> Any:
    """FeatureMaps at strides 8, 16 and 32."""
    pixels = keras.Input((None, None, 3))
    x, maps = layers.AveragePooling2D(4)(layers.Rescaling(1 / 255)(pixels)), []
    for width in (24, 48, 32):
        x = layers.MaxPooling2D(2)(layers.Conv2D(width, 1, activation="relu")(x))
        maps.append(x)
    return keras.Model(pixels, maps)


def test_distillation_explains_more_with_time_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 255, (32, 8, 8), dtype=np.uint8).repeat(28, 1).repeat(28, 2)
    teacher, student = small_teacher(), small_student()
    said: list[str] = []
    log = distil(student, teacher, [images, 255 - images], 150, tmp_path, said.append)
    unexplained = [[float(part.rsplit(" ", 1)[1]) for part in line.split(", ")[1:]] for line in said]
    assert len(unexplained) == 3
    assert (np.array(unexplained[-1]) < np.array(unexplained[0]) - 0.05).all()
    resumed = small_student()
    assert distil(resumed, teacher, [images, 255 - images], 150, tmp_path, said.append) == log
    assert [int(row["step"]) for row in log] == [50, 100, 150]
    assert len(said) == 3
    for mine, kept in zip(resumed.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, kept)


def test_the_last_steps_of_distillation_are_normalised_as_serving_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.backbones.distil.SAVE_EVERY", 10)
    images = np.random.default_rng(0).integers(0, 255, (32, 8, 8), dtype=np.uint8).repeat(28, 1).repeat(28, 2)
    student, seen = small_student(), []

    def look(_: str) -> None:
        seen.append([variable.numpy() for variable in student.weights if "moving_mean" in variable.path])

    distil(student, small_teacher(), [images, 255 - images], 100, tmp_path, look)
    moved = [not np.array_equal(before, after) for before, after in itertools.pairwise(seen)]
    assert moved == [True] * 8 + [False]


def test_distillation_refuses_fewer_images_than_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        distil(small_student(), small_teacher(), [np.zeros((3, 224, 224), np.uint8)], 1, tmp_path, print)


def test_settled_normalisation_knows_whole_images() -> None:
    pixels = keras.Input((None, None, 3))
    network = keras.Model(pixels, layers.BatchNormalization()(pixels))
    images = np.random.default_rng(0).normal(120, 20, (40, 16, 16)).astype(np.uint8)
    settle_batch_norm(network, images)
    seen = network(np.repeat(images.astype(np.float32)[..., np.newaxis], 3, -1), training=False).numpy()
    assert abs(seen.mean()) < 0.5
    assert seen.std() == pytest.approx(1, rel=0.1)
