"""Heads refitted to many sources: they compute what was fitted, and nothing held back has a part in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.inference.bundle import Bundle, Head
from shared.inference.heads import KINDS, HeadNetwork, softmax
from shared.inference.layers import read_network
from tests.unit.training.test_training_sources import NONE, study
from training.architectures import CHANNELS, SIDE
from training.bundle.card_sources import left_out_section
from training.data.images import Record
from training.heads.left_out_classes import ClassStudy, join
from training.heads.left_out_sources import Study, probability
from training.refit import REVIEW_ALL, Fitted, fit_binary, fit_classes, unheld, write_head
from training.tasks import TASKS, Task

SHIPPED = Path("models/thoraq-4")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_written_head_computes_the_regressions(task: Task, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    classes = len(task.classes)
    widths = [CHANNELS[backbone] for backbone in task.backbones]
    regressions = [
        (rng.normal(0, 0.02, (width, classes)).astype(np.float32), rng.normal(0, 1, classes).astype(np.float32))
        for width in widths
    ]
    numbers = np.arange(10) % classes
    fitted = Fitted(regressions, 1.0, 0.1, np.full((10, classes), 1 / classes), numbers, {})
    head = write_head(tmp_path, task, fitted)
    assert head.metrics == {"left_out": {}}
    network = _load(tmp_path, head)
    # The last row and column of an odd map lie outside of what 2 x 2 pooling takes.
    whole = SIDE // 2 * 2
    maps = {
        backbone: rng.uniform(0, 1, (4, SIDE, SIDE, width)).astype(np.float32)
        for backbone, width in zip(task.backbones, widths, strict=True)
    }
    logits = np.sum(
        [
            maps[backbone][:, :whole, :whole].mean((1, 2)) @ kernel + bias
            for backbone, (kernel, bias) in zip(task.backbones, regressions, strict=True)
        ],
        axis=0,
    )
    wanted = probability(logits) if task.activation == "sigmoid" else softmax(logits)
    assert np.allclose(network.predict(maps), wanted, atol=5e-3)  # kernels are stored in half precision


def _load(folder: Path, head: Head) -> HeadNetwork:
    description = json.loads((folder / head.architecture).read_text())
    return HeadNetwork(read_network(description, KINDS), load_file(folder / head.weights), head.backbones)


def test_neither_patients_nor_copies_of_what_is_held_back_are_fitted_to() -> None:
    one = study(copies={70: 0, 90: 1})
    held = [one.records[0], Record(Path("elsewhere.png"), "normal", one.records[100].patient)]
    kept = unheld(one, held)
    assert not kept[[0, 70, 100]].any()
    assert kept.sum() == len(kept) - 3


def test_where_left_out_sources_are_told_apart_they_calibrate_and_settle_the_margin() -> None:
    found = fit_binary(useful_study())
    assert found.left_out["pooled"]["auc"] > 0.9
    assert found.margin < REVIEW_ALL
    assert (found.held.argmax(1) == found.numbers).mean() > 0.9
    text = "\n".join(_sections(found))
    assert "a/covid19" in text
    assert "hospital of your own" in text


def test_what_is_often_wrong_elsewhere_may_send_more_to_review() -> None:
    one = study()
    few, many = (replace(one, how=replace(one.how, most=most)).calibrated() for most in (0.1, 0.5))
    assert few is not None
    assert many is not None
    assert many.margin > few.margin


def test_near_chance_at_left_out_sources_every_answer_asks_for_review() -> None:
    one = useful_study()
    # In each source another channel says it, so that what is learnt elsewhere is worth nothing.
    means = np.random.default_rng(1).normal(0, 1, (len(one.records), 8)).astype(np.float32)
    for number, source in enumerate("abcd"):
        rows = one.sources == source
        means[rows, number] += np.where(one.positive[rows], 3, -3)
        means[rows, (number + 1) % 4] -= np.where(one.positive[rows], 3, -3)
    found = fit_binary(Study(means, one.records, one.positive, NONE, one.copies, one.how))
    assert found.left_out["pooled"]["auc"] < 0.65
    assert found.margin == REVIEW_ALL


def test_the_backbone_that_tells_left_out_sources_apart_gets_the_weight() -> None:
    one = useful_study()
    rng = np.random.default_rng(2)
    numbers = np.where(one.positive, 2, np.arange(len(one.records)) % 2).astype(np.int64)
    good = (3 * np.eye(3)[numbers] + rng.normal(0, 0.5, (len(numbers), 3))).astype(np.float32)
    noise = rng.normal(0, 1, good.shape).astype(np.float32)
    classes = ClassStudy(one, {"noise": noise, "good": good}, numbers, 3, 1.0)
    found = join(classes)
    assert found.shares[1] >= 0.75
    assert (found.held.argmax(1) == numbers).mean() > 0.9
    fitted = fit_classes(classes)
    assert sum(row["images"] for row in fitted.left_out["accuracy_by_cell"].values()) == len(numbers)


def test_a_class_that_one_source_alone_has_leaves_its_images_unanswered() -> None:
    one = useful_study()
    numbers = np.where(one.sources == "a", 2, one.numbers).astype(np.int64)
    (held,) = ClassStudy(one, {"only": one.means}, numbers, 3, 1.0).held_logits()
    assert np.isnan(held[one.sources == "a"]).all()
    assert np.isfinite(held[one.sources != "a"]).all()


def useful_study() -> Study:
    """Four sources, in all of which one channel says COVID-19."""
    one = study()
    means = np.random.default_rng(3).normal(0, 0.5, (len(one.records), 4)).astype(np.float32)
    means[:, 0] += np.where(one.positive, 2, -2)
    return Study(means, one.records, one.positive, NONE, one.copies, one.how)


def _sections(found: Fitted) -> list[str]:
    head = (
        Bundle.open(SHIPPED, verify=False)
        .heads["binary-xray"]
        .model_copy(update={"metrics": {"left_out": found.left_out}})
    )
    card = Bundle.open(SHIPPED, verify=False).card.model_copy(update={"heads": {head.name: head}})
    return left_out_section(card)
