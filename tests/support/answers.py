"""Answers that workers may give, for tests of what clients see of them; written by `tests.support.api.finish`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.db.tables import Classifier, ResultOutcome
from shared.ids import new_id
from shared.jobs.claims import Answer, Claim, Heatmap, Outcome
from shared.jobs.schemas import Rejection
from tests.support.rows import BUNDLE

PROBABILITIES = {
    Classifier.BINARY: {"covid19": 0.0712, "not_covid19": 0.9345},
    Classifier.ENSEMBLE: {"normal": 0.0487, "pneumonia": 0.0923, "covid19": 0.859},
}
TIMINGS = {"queued": 0.01, "load": 0.02, "infer": 0.03, "total": 0.06}


def spot(row: int = 4, column: int = 2, size: int = 7) -> NDArray[np.uint8]:
    """A grid of activations with its strongest at one place, which its neighbours share in."""
    grid = np.zeros((size, size), np.uint8)
    grid[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 120
    grid[row, column] = 255
    return grid


def png(grid: NDArray[np.uint8]) -> bytes:
    """A grid as it is stored."""
    return cv2.imencode(".png", grid)[1].tobytes()


def answered(claim: Claim, grid: NDArray[np.uint8] | None = None, **changes: Any) -> Outcome:
    """The claim with an answer, and a heatmap for each image if there is a grid; `changes` are fields of Answer."""
    probabilities = PROBABILITIES[claim.classifier]
    prediction = max(probabilities, key=lambda label: probabilities[label])
    made = [] if grid is None else [Heatmap(new_id("art"), i.id, prediction, png(grid)) for i in claim.images]
    ids = {one.image_id: one.id for one in made}
    said = {"prediction": prediction, "probabilities": probabilities}
    images = [
        {"image_id": image.id, "file": image.file, "frame": image.frame, "heatmap": ids.get(image.id)} | said
        for image in claim.images
    ]
    answer = Answer(BUNDLE, images, TIMINGS, prediction=prediction, probabilities=probabilities, heatmaps=made)
    return Outcome(claim, answer=replace(answer, **changes))


def rejected(claim: Claim, reason: Rejection, detail: str) -> Outcome:
    """The claim with none of its images classified."""
    images = [
        {"image_id": image.id, "file": image.file, "frame": image.frame, "rejected": reason} for image in claim.images
    ]
    outcome = ResultOutcome.REJECTED_INPUT
    return Outcome(claim, answer=Answer(BUNDLE, images, TIMINGS, outcome=outcome, reason=reason, detail=detail))
