"""Fit the lung finder: `python -m training.lungs --data DIR --out FILE`, where DIR holds lungs.csv and its images.

lungs.csv: file, then right_x0, right_y0, right_x1, right_y1 and the same of left, in fractions of the image; `right`
is the patient's. Patients come from the index.csv beside the images. What is printed is the overlap (intersection
over union) on patients that fitting did not see, in a patient-wise cross-validation.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import save_file
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from shared.errors import ConfigError
from shared.imaging.decode import Limits, decode_one
from shared.imaging.lungs import WHOLE, Floats, Grey, LungFinder, around, features, inside, thumbnail
from training.data.images import FOLDS, SEED, read_index

CORNERS = tuple(f"{side}_{corner}" for side in ("right", "left") for corner in ("x0", "y0", "x1", "y1"))
#: How far the windows of each stage are moved in training, as shares of their size: about as far as the stage before
#: errs.
JITTER = (0.15, 0.16, 0.10)
VIEWS = 5  # windows of each image and stage
PENALTY = 100.0
GAMMA = 0.4  # of the natural logarithm of the exponent


@dataclass(frozen=True)
class Drawn:
    """Images as the finder sees them, the corners (N, 8) of their lungs, and their patients."""

    images: Sequence[Grey]
    corners: Floats
    patients: NDArray[np.str_]

    def some(self, rows: NDArray[np.int64]) -> Drawn:
        """Return these rows alone."""
        return Drawn([self.images[row] for row in rows], self.corners[rows], self.patients[rows])


def read_boxes(data: Path) -> dict[Path, Floats]:
    """Read the corners (8,) by file that `data`/lungs.csv lists; ConfigError when it is not there or lacks a column."""
    file = data / "lungs.csv"
    if not file.is_file():
        raise ConfigError("the data folder holds no lungs.csv")
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"file", *CORNERS} <= rows[0].keys():
        raise ConfigError(f"lungs.csv needs rows with the columns file, {', '.join(CORNERS)}")
    return {data / row["file"]: np.array([float(row[name]) for name in CORNERS], np.float32) for row in rows}


def read_drawn(data: Path) -> Drawn:
    """Read the images and boxes that `data`/lungs.csv lists, with the patients that an index.csv names."""
    boxes = read_boxes(data)
    patients = {
        record.path: record.patient for index in sorted(data.glob("*/index.csv")) for record in read_index(index.parent)
    }
    images = [thumbnail(decode_one(path.read_bytes(), Limits())) for path in boxes]
    return Drawn(images, np.stack(list(boxes.values())), np.array([patients.get(path, path.stem) for path in boxes]))


def mirrored(corners: Floats) -> Floats:
    """Return the corners (8,) of the mirror image, where right and left change places."""
    right, left = np.split(corners, 2)
    return np.concatenate([[1 - box[2], box[1], 1 - box[0], box[3]] for box in (left, right)]).astype(np.float32)


def fit(drawn: Drawn, seed: int = SEED) -> LungFinder:
    """Return the cascade, each stage on windows that are as far off as the stage before leaves them."""
    rng = np.random.default_rng(seed)
    stages = []
    for number, jitter in enumerate(JITTER):
        seen, wanted = [], []
        for _ in range(VIEWS):
            for image, corners in zip(drawn.images, drawn.corners, strict=True):
                view, boxes = _view(image, corners, rng)
                window = _moved(WHOLE if number == 0 else around(boxes), jitter, rng)
                seen.append(features(view, window))
                wanted.append(inside(boxes, window))
        model = Ridge(alpha=PENALTY).fit(np.array(seen), np.array(wanted))
        stages.append((model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32)))
    return LungFinder(stages)


def _view(image: Grey, corners: Floats, rng: np.random.Generator) -> tuple[Grey, Floats]:
    """Return an image or its mirror image, brighter or darker."""
    power = np.exp(rng.uniform(-GAMMA, GAMMA))
    table = np.round(255 * (np.arange(256) / 255) ** power).astype(np.uint8)
    changed = np.asarray(cv2.LUT(image, table), np.uint8)
    if rng.random() < 0.5:
        return np.ascontiguousarray(changed[:, ::-1]), mirrored(corners)
    return changed, corners


def _moved(window: Floats, jitter: float, rng: np.random.Generator) -> Floats:
    """Return a window whose sides are moved by up to `jitter` of its size."""
    size = np.tile(window[2:] - window[:2], 2)
    return np.asarray(window + rng.uniform(-jitter, jitter, 4) * size, np.float32)


def find_all(finder: LungFinder, images: Sequence[Grey]) -> Floats:
    """Find the corners (N, 8) that a finder gives."""
    found = [finder.find(image) for image in images]
    return np.array([[*vars(lungs.right).values(), *vars(lungs.left).values()] for lungs in found], np.float32)


def both(corners: Floats) -> Floats:
    """Of corners (N, 8) the boxes (N, 4) that hold both lungs."""
    points = corners.reshape(-1, 4, 2)
    return np.concatenate([points.min(1), points.max(1)], axis=1)


def overlap(first: Floats, second: Floats) -> Floats:
    """Intersection over union of boxes (N, 4)."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return np.asarray(common / (areas[0] + areas[1] - common), np.float32)


def cross_validated(drawn: Drawn) -> dict[str, float]:
    """Mean overlaps on patients that the answering finder did not see: of the right, the left and both lungs."""
    found = np.zeros_like(drawn.corners)
    for seen, held in GroupKFold(FOLDS).split(found, groups=drawn.patients):
        found[held] = find_all(fit(drawn.some(seen)), drawn.some(held).images)
    overlaps = {
        "right": overlap(found[:, :4], drawn.corners[:, :4]),
        "left": overlap(found[:, 4:], drawn.corners[:, 4:]),
        "both": overlap(both(found), both(drawn.corners)),
    }
    means = {name: float(values.mean()) for name, values in overlaps.items()}
    return means | {"both_below_0.7": float((overlaps["both"] < 0.7).mean())}


def main(
    data: Annotated[Path, typer.Option(help="Holds lungs.csv and the images that it lists.")],
    out: Annotated[Path, typer.Option(help="Where the fitted finder goes (safetensors).")],
    measure: Annotated[bool, typer.Option(help="Cross-validate first.")] = True,
) -> None:
    """Fit the lung finder to all boxes, and say how well one fitted to the other patients does on each."""
    drawn, console = read_drawn(data), Console()
    if measure:
        for name, value in cross_validated(drawn).items():
            console.print(f"{name}: {value:.3f}")
    save_file(fit(drawn).arrays(), out)
    console.print(f"written: {out} ({len(drawn.images)} images)")


if __name__ == "__main__":
    typer.run(main)
