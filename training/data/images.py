"""Labelled image folders: index.csv to records, pixels and patient-disjoint parts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from shared.errors import ConfigError
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import InputSpec, prepare

SEED = 20200325
FOLDS = 5


@dataclass(frozen=True)
class Record:
    """One labelled image; `split` is the published part, or empty when the set has none."""

    path: Path
    label: str
    patient: str
    split: str = ""
    source: str = "unnamed"
    licence: str = "unknown"


@dataclass(frozen=True)
class Warp:
    """How far `augment` may move an image: zoom factors, degrees, fractions of the size, grey factors."""

    zoom: tuple[float, float] = (0.92, 1.12)
    degrees: float = 7.0
    shift: float = 0.05
    contrast: float = 0.15


def read_index(folder: Path) -> list[Record]:
    """Read the rows of `folder`/index.csv (columns file, label, patient and optionally split, source, license)."""
    index = folder / "index.csv"
    if not index.is_file():
        raise ConfigError(f"{folder.name}/index.csv does not exist")
    with index.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "label", "patient"} <= rows[0].keys():
        raise ConfigError(f"{folder.name}/index.csv needs rows with the columns file, label, patient")
    return [
        Record(
            folder / row["file"],
            row["label"],
            row["patient"],
            row.get("split") or "",
            row.get("source") or "unnamed",
            row.get("license") or "unknown",
        )
        for row in rows
    ]


def load_images(records: Sequence[Record], spec: InputSpec) -> NDArray[np.uint8]:
    """Load prepared pixels (N, size, size), through the same functions that serve."""

    def load(record: Record) -> NDArray[np.uint8]:
        return prepare(decode_one(record.path.read_bytes(), Limits(), target=spec.size), spec)

    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(load, records)))


def folds(records: Sequence[Record], count: int = FOLDS, seed: int = SEED) -> list[NDArray[np.int64]]:
    """Row numbers of `count` parts, labels balanced; a patient is in one part only."""
    labels = [record.label for record in records]
    patients = [record.patient for record in records]
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [part for _, part in splitter.split(np.zeros(len(records)), labels, patients)]


def partition(records: Sequence[Record], seed: int = SEED) -> dict[str, NDArray[np.int64]]:
    """Row numbers of train, val and test: the published split, or fold 0 for test and fold 1 for val."""
    if all(record.split for record in records):
        split = np.array([record.split for record in records])
        return {part: np.flatnonzero(split == part) for part in ("train", "val", "test")}
    test, val, *rest = folds(records, seed=seed)
    return {"train": np.sort(np.concatenate(rest)), "val": val, "test": test}


@dataclass(frozen=True)
class ImageSet:
    """One modality's images and their parts."""

    records: list[Record]
    images: NDArray[np.uint8]
    parts: dict[str, NDArray[np.int64]]

    @classmethod
    def read(cls, folder: Path, spec: InputSpec) -> ImageSet:
        """Everything that `folder`/index.csv lists, decoded."""
        records = read_index(folder)
        return cls(records, load_images(records, spec), partition(records))

    def rows(self, *parts: str) -> NDArray[np.int64]:
        """Row numbers of several parts, in order."""
        return np.sort(np.concatenate([self.parts[part] for part in parts]))

    def pixels(self, part: str) -> NDArray[np.uint8]:
        """Return the images of train, val or test, in the order of its rows."""
        return self.images[self.parts[part]]

    def labels(self, part: str) -> list[str]:
        """Return the labels of train, val or test, in the order of its rows."""
        return [self.records[row].label for row in self.parts[part]]


def augment(image: NDArray[np.uint8], rng: np.random.Generator, warp: Warp, size: int) -> NDArray[np.uint8]:
    """Return a rotated, zoomed, shifted, mirrored and brightened (size, size) view of a square image (S, S)."""
    source = image.shape[0]
    # A zoom of 1 maps pixel to pixel, so a view smaller than the image is a crop at the scale that serving sees.
    zoom = rng.uniform(*warp.zoom)
    matrix = cv2.getRotationMatrix2D((source / 2, source / 2), rng.uniform(-warp.degrees, warp.degrees), zoom)
    slack = max(0.0, (source * zoom - size) / 2) + warp.shift * size
    matrix[:, 2] += size / 2 - source / 2 + rng.uniform(-slack, slack, 2)
    view = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if rng.random() < 0.5:
        view = view[:, ::-1]
    gain = rng.uniform(1 - warp.contrast, 1 + warp.contrast)
    offset = 128 * rng.uniform(-warp.contrast, warp.contrast)
    return np.asarray(np.clip(view * gain + offset, 0, 255), dtype=np.uint8)
