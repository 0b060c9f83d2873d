"""Labelled folders of many sources, and which of them must be kept apart from one another.

A source is where images come from: a hospital, or a collection. It is the `source` column of an index.csv; the recipe
says which names mean the same source, and which sources share images or a hospital and so are left out together.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from training.data.images import Record, read_index

Modality = Literal["xray", "ct"]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
RECIPE = Path(__file__).parents[1] / "recipes" / "sources.toml"


@dataclass(frozen=True)
class Kinship:
    """Which names are one source (`same`), and which pairs of sources are left out together (`shared`).

    A member of a pair is a source, or one label of it: `crd:normal`.
    """

    same: Mapping[str, str]
    shared: Sequence[tuple[str, str]]

    @classmethod
    def read(cls, recipe: Path = RECIPE) -> Kinship:
        """From a recipe in TOML: the table `same`, and the array `shared` of pairs."""
        plan = tomllib.loads(recipe.read_text(encoding="utf-8"))
        pairs = [tuple(pair) for pair in plan.get("shared", [])]
        if any(len(pair) != 2 for pair in pairs):
            raise ConfigError(f"{recipe.name}: `shared` holds pairs of sources")
        return cls(plan.get("same", {}), [(first, second) for first, second in pairs])

    def left_out(self, records: Sequence[Record], source: str) -> Flags:
        """Which records (N,) are unknown to whoever is tested on `source`: its own, and those of its kin."""
        held = np.array([record.source == source for record in records], bool)
        out = held.copy()
        for first, second in self.shared:
            for mine, other in ((first, second), (second, first)):
                if (_named(records, mine) & held).any():
                    out |= _named(records, other)
        return out


def _named(records: Sequence[Record], name: str) -> Flags:
    """Return the records of a source, or of one label of a source."""
    source, _, label = name.partition(":")
    return np.array([record.source == source and label in {"", record.label} for record in records], bool)


def read_folders(data: Path, kinship: Kinship) -> dict[str, list[Record]]:
    """All records under `data` by modality: of every folder in it that holds an index.csv, or of `data` itself.

    A folder whose name begins with ct holds CT slices, any other X-rays. ConfigError when there is no index.csv.
    """
    indexes = [data / "index.csv"] if (data / "index.csv").is_file() else sorted(data.glob("*/index.csv"))
    if not indexes:
        raise ConfigError("the data folder holds no index.csv, nor does any folder in it")
    found: dict[str, list[Record]] = {}
    for index in indexes:
        modality = "ct" if index.parent.resolve().name.startswith("ct") else "xray"
        records = [
            replace(record, source=kinship.same.get(record.source, record.source))
            for record in read_index(index.parent)
        ]
        found.setdefault(modality, []).extend(records)
    return found


def cells(records: Sequence[Record]) -> NDArray[np.str_]:
    """Return the source and label of each record in one word (N,): what is weighted, and reported, alike."""
    return np.array([f"{record.source}/{record.label}" for record in records])


def weights_of(cell: NDArray[np.str_], numbers: Rows, evenness: float = 1.0) -> NDArray[np.float64]:
    """How much each image (N,) counts, 1 on average: every class alike, and the cells of a class by their size.

    With an `evenness` of 1 all cells of a class count the same, with 0 all their images.
    """
    _, owner, sizes = np.unique(cell, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1.0 / sizes[owner].astype(np.float64) ** evenness
    for number in np.unique(numbers):
        rows = numbers == number
        weights[rows] /= weights[rows].sum()
    return np.asarray(weights * (len(numbers) / weights.sum()))


def lone_classes(records: Sequence[Record], classes: Sequence[str], numbers: Rows) -> dict[str, str]:
    """Classes that one source alone has, and that source: what tells them from others may be the source itself."""
    found: dict[str, str] = {}
    for number, name in enumerate(classes):
        owners = {record.source for record, mine in zip(records, numbers.tolist(), strict=True) if mine == number}
        if len(owners) == 1:
            found[name] = owners.pop()
    return found


def at_most(records: Sequence[Record], most: int) -> Rows:
    """Row numbers of at most so many images of each source and label, evenly spread over those that there are."""
    found = []
    cell = cells(records)
    for name in np.unique(cell).tolist():
        rows = np.flatnonzero(cell == name)
        found.append(rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)])
    return np.sort(np.concatenate(found))
