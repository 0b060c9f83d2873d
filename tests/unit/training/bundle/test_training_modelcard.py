"""The card for people says what its numbers say, the bad news first; older cards can be written, too."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import Backbone, Bundle, Card, Gate, Head, OperatingPoint, Source
from training.bundle.model_card import NOTICE, origins, readme
from training.evaluation.measure import measure, summarise_folds

ROOT = Path(__file__).parents[4]
CLASSES = {"binary": ("covid19", "not_covid19"), "ensemble": ("normal", "pneumonia", "covid19")}
POINT = OperatingPoint(target_sensitivity=0.95, threshold=0.31, sensitivity=0.96, specificity=0.88)
GATE = {
    "not_chest": {"images": 400, "rejected": 0.97, "interval": [0.95, 0.99], "by_kind": {"noise": 1.0, "text": 0.94}},
    "chest": {"images": 200, "rejected": 0.01, "interval": [0.0, 0.02], "by_modality": {"xray": 0.01, "ct": 0.01}},
    "modality_accuracy": 1.0,
    "chest_changed": {"cropped": 0.02},
    "chest_spoiled": {"sideways": 0.9},
}


def metrics(classifier: str, accuracy: float, **more: Any) -> dict[str, Any]:
    """Of 60 made-up answers, as many right as asked."""
    classes = CLASSES[classifier]
    numbers = np.arange(60) % len(classes)
    guessed = np.where(np.arange(60) < accuracy * 60, numbers, (numbers + 1) % len(classes))
    probabilities = np.full((60, len(classes)), 0.1) + 0.7 * np.eye(len(classes))[guessed]
    return measure(probabilities, numbers, classes, [f"p{row // 2}" for row in range(60)], **more)


def head(classifier: str, modality: str, found: dict[str, Any]) -> Head:
    return Head(
        classifier=classifier,
        modality=modality,
        classes=CLASSES[classifier],
        activation="sigmoid" if classifier == "binary" else "softmax",
        temperature=1.5,
        backbones=("densenet201",),
        architecture="a.json",
        weights="a.safetensors",
        review_margin=0.2,
        operating_points=(POINT,),
        metrics=found,
    )


def card(ct_accuracy: float = 0.8, fold_accuracy: float = 0.9) -> Card:
    """A card with everything that a card can have."""
    sent = np.arange(60) < 6
    engines = {"openvino-int8": {"images": 60, "same_label": 0.998, "accuracy_difference": 0.001,
                                 "intervals": {"same_label": [0.99, 1.0], "accuracy_difference": [0.0, 0.002]}},
               "openvino-bf16": {"refused": "this CPU does not compute in bfloat16"}}  # fmt: skip
    ct = metrics("binary", ct_accuracy, to_review=sent, points=[POINT])
    xray = metrics("ensemble", 0.9, to_review=sent, points=[POINT], positive=2) | {"engines": engines}
    numbers = np.arange(60) % 3
    guessed = np.where(np.arange(60) < fold_accuracy * 60, numbers, (numbers + 1) % 3)
    labels = [CLASSES["ensemble"][number] for number in numbers]
    folds = summarise_folds(
        np.full((60, 3), 0.1) + 0.7 * np.eye(3)[guessed], numbers, CLASSES["ensemble"],
        [f"p{row}" for row in range(60)], labels=labels, against="covid19", note="five folds",
    )  # fmt: skip
    sources = [Source(name=n, description="D.", licence="L", images={"train": {"covid19": 3}})
               for n in ("UCSD-AI4H/COVID-CT", "ieee8023/covid-chestxray-dataset")]  # fmt: skip
    return Card(
        name="some", version="9", created=datetime(2026, 1, 1, tzinfo=UTC), preprocessing=InputSpec(),
        backbones={"densenet201": Backbone(architecture="t.json", weights="t.safetensors", origin="from somewhere")},
        heads={"ensemble-xray": head("ensemble", "xray", xray), "binary-ct": head("binary", "ct", ct)},
        gate=Gate(backbone="densenet201", weights="gate.safetensors", metrics=GATE),
        cross_validation={"ensemble-xray": folds, "ensemble-xray-vgg16": {**folds, "note": "VGG16 alone"}},
        data=tuple(sources), limits=("It learns the scanner, not the disease.",), notice=NOTICE,
        files={"binary-ct-roc.png": "0", "curves.png": "0"},
    )  # fmt: skip


def test_shortcuts_and_shortfalls_come_before_any_table() -> None:
    text = readme(card())
    before = text[: text.index("|")]
    assert NOTICE in before
    assert "It learns the scanner" in before
    assert "Falls short: CT slices, published split: accuracy is 0.800" in before


def test_what_is_no_shortfall_is_not_called_one() -> None:
    text = readme(card(ct_accuracy=1, fold_accuracy=1))
    assert "Falls short" not in text
    assert "| CT slices, published split: accuracy | 1.000 (1.000 to 1.000) | 0.886 |" in text
    assert "| X-rays, three classes: accuracy | 1.000 (1.000 to 1.000) | 0.870 |" in text


def test_others_results_are_set_beside_ours_on_their_own_images_only() -> None:
    elsewhere = card().model_copy(update={"data": ()})
    assert "0.886" not in readme(elsewhere)


def test_every_figure_of_the_card_is_told_with_its_interval() -> None:
    told = readme(card())
    found = card()
    for name in ("ensemble-xray", "binary-ct"):
        held = found.heads[name].metrics
        for score, (low, high) in held["intervals"].items():
            assert f"{held['scores'][score]:.3f} ({low:.3f} to {high:.3f})" in told, (name, score)
    for words in (
        "Sent to review (margin below 0.200, or binary and ensemble disagree on COVID-19): 0.100 (0.0",
        "| 0.95 | 0.3100 | 0.960 / 0.880 |",
        "| openvino-int8 | 60 | 0.998 (0.990 to 1.000) | 0.001 (0.000 to 0.002) |",
        "refused: this CPU does not compute in bfloat16",
        "| 400 | 97.0% (95.0% to 99.0%) |",
        "noise 100.0%, text 94.0%",
        "sideways 90.0%",
        "**ensemble-xray-vgg16**: VGG16 alone",
        "![binary-ct: ROC curves](binary-ct-roc.png)",
        "![training curves](curves.png)",
        "train 3 covid19",
        "from somewhere",
    ):
        assert words in told, words
    assert "ensemble-xray-roc.png" not in told


def test_tables_are_whole() -> None:
    lines = readme(card()).splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|"), below


@pytest.mark.parametrize("bundle", sorted((ROOT / "models").glob("*/card.json")), ids=lambda path: path.parent.name)
def test_the_cards_of_the_shipped_bundles_can_be_told(bundle: Path) -> None:
    shipped = Bundle.open(bundle.parent, verify=False).card
    text = readme(shipped)
    for limit in shipped.limits:
        assert limit in text
    for name, part in shipped.heads.items():
        assert f"| {name} | {part.metrics['images']} ({part.metrics['patients']}) |" in text


def test_a_card_before_its_measures_can_be_told() -> None:
    bare = card()
    heads = {name: part.model_copy(update={"metrics": {}}) for name, part in bare.heads.items()}
    text = readme(bare.model_copy(update={"heads": heads, "cross_validation": {}, "gate": None}))
    assert NOTICE in text
    assert "confusion" not in text


def test_origins_say_what_was_done_and_no_more() -> None:
    plan = {"distil_steps": 1800, "distil_vgg_epochs": 3, "train_upper_block": True}
    assert origins("distil", plan)["densenet201"].startswith("random initial weights; then distilled from EfficientNet")
    assert "1800 steps" in origins("distil", plan)["densenet201"]
    assert origins("distil", plan, begun="thoraq-2")["densenet201"].startswith("begun with the weights of thoraq-2; ")
    assert "trained on, with the ensemble" not in origins("distil", plan, ("ct",))["vgg16"]
    assert "3 epochs without labels" in origins("distil", plan)["vgg16"]
    assert "without labels" not in origins("distil", plan | {"distil_vgg_epochs": 0})["vgg16"]
    assert origins("imagenet", plan)["densenet201"] == "ImageNet weights of keras.applications."
    assert origins("distil", plan | {"distil_steps": 0})["densenet201"] == "random initial weights."
