"""What a bundle says of labelled images, the way it says it when it serves.

Images are prepared by shared/imaging, go through an engine's backbones, then through the bundle's heads and its gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from shared.errors import ConfigError
from shared.inference.bundle import Bundle
from shared.inference.engine import Engine
from shared.inference.gate import Gate
from shared.inference.heads import HeadNetwork
from training.data.images import Record, load_images

CHUNK = 64  # images whose maps are held at once: 30 MB


@dataclass(frozen=True)
class Answers:
    """What a bundle says of a modality's images: (N, classes) by head, and what the gate takes each for."""

    labels: NDArray[np.str_]  # (N,)
    patients: NDArray[np.str_]  # (N,)
    probabilities: dict[str, NDArray[np.float32]]
    kinds: NDArray[np.str_] | None  # (N,) of xray, ct, other; None where the bundle has no gate
    sources: NDArray[np.str_]  # (N,)


def ask(bundle: Bundle, sets: Mapping[str, list[Record]], engine: Engine) -> dict[str, Answers]:
    """Return what the bundle says of every record, by modality; each backbone sees each image once.

    Raises ConfigError when there is nothing to ask, or nothing that could answer.
    """
    heard: set[str] = {head.modality for head in bundle.heads.values()}
    found: dict[str, Answers] = {
        name: _ask(bundle, name, records, engine) for name, records in sets.items() if records and name in heard
    }
    if not found:
        raise ConfigError("no images, or none of a modality that the bundle has a classifier for")
    return found


def _ask(bundle: Bundle, modality: str, records: list[Record], engine: Engine) -> Answers:
    heads = {name: HeadNetwork.load(bundle, head) for name, head in bundle.heads.items() if head.modality == modality}
    gate = Gate.load(bundle) if bundle.card.gate else None
    backbones = {backbone for head in heads.values() for backbone in head.backbones}
    if bundle.card.gate:
        backbones.add(bundle.card.gate.backbone)
    answers: dict[str, list[NDArray[np.float32]]] = {name: [] for name in heads}
    kinds: list[str] = []
    for maps in _feature_maps(bundle, modality, records, engine, sorted(backbones)):
        for name, head in heads.items():
            answers[name].append(head.predict(maps))
        if gate and bundle.card.gate:
            kinds += [verdict.kind for verdict in gate.judge(maps[bundle.card.gate.backbone])]
    found = {name: np.concatenate(parts) for name, parts in answers.items()}
    columns = ("label", "patient", "source")
    labels, patients, sources = (np.array([getattr(record, name) for record in records]) for name in columns)
    return Answers(labels, patients, found, np.array(kinds) if gate else None, sources)


def _feature_maps(
    bundle: Bundle, modality: str, records: list[Record], engine: Engine, backbones: Sequence[str]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    starts, console = range(0, len(records), CHUNK), Console(stderr=True)
    quiet = not console.is_terminal
    for start in track(starts, f"{modality}, {engine.name}", console=console, transient=True, disable=quiet):
        yield engine.feature_maps(load_images(records[start : start + CHUNK], bundle.input), backbones)
