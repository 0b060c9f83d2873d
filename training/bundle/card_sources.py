"""The sections of a bundle's README on images whose source had no part in what answered them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.inference.bundle import Card
from training.bundle.card_parts import table
from training.evaluation.measure import ranged

HEADS_REFITTED = (
    "**Heads**: each carries a penalised logistic regression on the means of the backbones' maps in int8, every class "
    "weighted alike and its sources more alike than by their images; what int8 does to the means, exaggerated, is part "
    "of the penalty (training/heads/rounding.py); the layers of the published architecture hold its weights, the same "
    "at every place of a map, and most of their units rest (training/heads/shrinkage.py says why). The test parts of "
    "cxr/ and ct/, whatever shares a patient with them and their near-copies were left out."
)
CALIBRATION_REFITTED = (
    "**Calibration**: scale, offset, temperature, thresholds and review margins come from answers to sources that the "
    "answering head was not fitted to (training/heads/left_out_sources.py), never from the test parts. Where that "
    "answer is near chance, every answer is sent to review."
)
REFITTED = (HEADS_REFITTED, CALIBRATION_REFITTED)
LEFT_OUT = (
    "Each image is answered by a head that was fitted, calibrated and thresholded without its source, and without "
    "what shares images or a hospital with it. This is what to expect at a hospital of your own; the figures "
    "further down are of hospitals that it knows."
)
HEADER = ("images", "ROC AUC", "sensitivity", "specificity", "calibration error", "sent to review", "wrong, not sent")
FIGURES = ("auc", "sensitivity", "specificity", "ece", "to_review", "confident_and_wrong")


def left_out_heads(card: Card) -> dict[str, Mapping[str, Any]]:
    """By head what was measured on left-out sources; empty for a bundle that was not refitted."""
    return {name: head.metrics["left_out"] for name, head in card.heads.items() if "left_out" in head.metrics}


def left_out_section(card: Card) -> list[str]:
    """Return the figures that come nearest to what a new hospital will see."""
    found = left_out_heads(card)
    if not found:
        return []
    pooled = {name: figures for name, figures in found.items() if "pooled" in figures}
    rows = [
        [name, str(each["pooled"]["images"]), *(ranged(each["pooled"], figure) for figure in FIGURES)]
        for name, each in pooled.items()
    ]
    return [
        "## How well it does at sources that it does not know",
        LEFT_OUT,
        table(("head", *HEADER), rows),
        *(part for name, figures in found.items() for part in _cells(name, figures)),
    ]


def _cells(name: str, figures: Mapping[str, Any]) -> list[str]:
    """Return a head's figures by source and label."""
    if "accuracy_by_cell" in figures:
        rows = [
            [cell, str(row["images"]), f"{row['accuracy']:.3f}"] for cell, row in figures["accuracy_by_cell"].items()
        ]
        return [f"{name}, by source and label:", table(("left out / label", "images", "right"), rows)]
    names = ("wrong", "to_review", "confident_and_wrong")
    rows = [
        [cell, str(row["images"]), *(ranged(row, each) for each in names)] for cell, row in figures["cells"].items()
    ]
    header = ("left out / label", "images", "wrong", "sent to review", "wrong, not sent")
    return [f"{name}, by source and label:", table(header, rows)]
