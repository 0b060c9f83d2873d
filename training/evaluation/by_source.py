"""Answers to the images of several sources, measured by source and label, and pooled.

What counts in use is who is told the wrong thing with nobody asked to look again: *confident and wrong*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from training.evaluation.measure import Bootstrap, Flags, Numbers, Probabilities, area, flat, overall, ranged, share

POOLED = ("auc", "sensitivity", "specificity", "ece", "to_review", "confident_and_wrong")
BY_CELL = ("called_covid19", "wrong", "to_review", "confident_and_wrong")


def by_source(
    probabilities: Probabilities,
    numbers: Numbers,
    cells: NDArray[np.str_],
    patients: Sequence[str] | NDArray[np.str_],
    to_review: Flags,
) -> dict[str, Any]:
    """Figures with 95 % intervals by patient: of all images under `pooled`, of each source and label under `cells`.

    `probabilities` (N, 2) are those of COVID-19 and its absence, `numbers` (N,) are 0 where an image shows COVID-19.
    Under `worst`, the highest share called COVID-19 of a cell that is not, missed of one that is, and the highest share
    confident and wrong.
    """
    names = np.asarray(patients)
    found: dict[str, dict[str, Any]] = {}
    for cell in np.unique(cells).tolist():
        rows = cells == cell
        found[cell] = one_cell(probabilities[rows], numbers[rows], names[rows], to_review[rows])
    return {
        "pooled": pooled(probabilities, numbers, names, to_review),
        "worst": worst(found),
        "cells": found,
    }


def pooled(
    probabilities: Probabilities, numbers: Numbers, patients: NDArray[np.str_], to_review: Flags
) -> dict[str, Any]:
    """Return the figures of all images together; those that one class alone does not allow are left out."""
    said, truth = probabilities.argmax(1) == 0, numbers == 0

    def statistics(weights: NDArray[np.float64]) -> dict[str, Any]:
        return {
            "auc": area(probabilities[:, 0], truth, weights),
            "sensitivity": share(weights, said, truth),
            "specificity": share(weights, ~said, ~truth),
            "ece": overall(probabilities, numbers, weights)["ece"],
            "to_review": share(weights, to_review),
            "confident_and_wrong": share(weights, (said != truth) & ~to_review),
        }

    return {"images": len(numbers), **flat(Bootstrap.of(patients).estimate(statistics))}


def one_cell(
    probabilities: Probabilities, numbers: Numbers, patients: NDArray[np.str_], to_review: Flags
) -> dict[str, Any]:
    """Return the figures of the images of one source and label."""
    said, truth = probabilities.argmax(1) == 0, numbers == 0
    estimates = Bootstrap.of(patients).estimate(
        partial(_shares, said, {"wrong": said != truth, "to_review": to_review}, ~to_review)
    )
    return {"images": len(numbers), "covid19": bool(truth.all()), **flat(estimates)}


def _shares(said: Flags, flags: Mapping[str, Flags], kept: Flags, weights: NDArray[np.float64]) -> dict[str, Any]:
    shares = {name: share(weights, flag) for name, flag in flags.items()}
    return {
        "called_covid19": share(weights, said),
        **shares,
        "confident_and_wrong": share(weights, flags["wrong"] & kept),
    }


def worst(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the cells that come off worst."""
    found: dict[str, Any] = {}
    for name, figure, among in (
        ("called_covid19_though_not", "wrong", False),
        ("missed", "wrong", True),
        ("confident_and_wrong", "confident_and_wrong", None),
    ):
        some = {cell: row[figure] for cell, row in cells.items() if among is None or row["covid19"] == among}
        if some:
            cell = max(some, key=lambda key: some[key])
            found[name] = {"cell": cell, "share": some[cell]}
    return found


def show(title: str, found: Mapping[str, Any], console: Console) -> None:
    """Print what `by_source` found as tables."""
    table = Table("images", *(name.replace("_", " ") for name in POOLED), title=f"{title}: pooled, 95 % in brackets")
    table.add_row(str(found["pooled"]["images"]), *(ranged(found["pooled"], name) for name in POOLED))
    console.print(table)
    cells = Table(
        Column("source/label", no_wrap=True), "images", *(name.replace("_", " ") for name in BY_CELL), title=title
    )
    for cell, row in found["cells"].items():
        cells.add_row(cell, str(row["images"]), *(ranged(row, name) for name in BY_CELL))
    console.print(cells)
    for name, row in found["worst"].items():
        console.print(f"worst, {name.replace('_', ' ')}: {row['share']:.3f} ({row['cell']})")
