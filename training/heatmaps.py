"""How much of a bundle's heatmaps lies on the lungs: `python -m training.heatmaps --bundle models/NAME --data DIR`.

DIR holds lungs.csv (training/lungs.py) and its images. Of each image, the share of its heatmap's sum that lies within
the boxes that radiologists drew around the lungs, for the class that the head gives. By chance it is the boxes' share
of the picture, which stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from shared.inference.bundle import Bundle
from shared.inference.engine import Engine, EngineName
from shared.inference.engines import make_engine
from shared.inference.heads import HeadNetwork
from training.data.folders import Kinship, read_folders
from training.data.images import Record, load_images
from training.evaluation.answers import CHUNK
from training.evaluation.measure import Bootstrap, ranged
from training.lungs import read_boxes

Floats = NDArray[np.float32]
SIDE = 224  # pixels of the picture in which shares are taken


def mask(corners: Floats) -> Floats:
    """1 within two boxes (8,), 0 elsewhere, (SIDE, SIDE)."""
    found = np.zeros((SIDE, SIDE), np.float32)
    for x0, y0, x1, y1 in np.clip(np.round(corners.reshape(2, 4) * SIDE), 0, SIDE).astype(int).tolist():
        found[y0:y1, x0:x1] = 1
    return found


def share_inside(heat: Floats, inside: Floats) -> float:
    """Return the share of a heatmap (h, w) that lies inside a mask (SIDE, SIDE); NaN of one that is zero everywhere."""
    whole = cv2.resize(heat, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    total = float(whole.sum())
    return float((whole * inside).sum()) / total if total > 0 else float("nan")


def shares(
    bundle: Bundle, name: str, records: Sequence[Record], corners: Floats, engine: Engine
) -> NDArray[np.float64]:
    """Of each image (N,) the share of the head's heatmap that lies inside the boxes (N, 8)."""
    head = HeadNetwork.load(bundle, bundle.heads[name])
    found: list[float] = []
    for start in range(0, len(records), CHUNK):
        maps = engine.feature_maps(load_images(records[start : start + CHUNK], bundle.input), head.backbones)
        pictures = head.explain(maps, head.predict(maps).argmax(1))
        boxes = corners[start : start + CHUNK]
        found += [share_inside(heat, mask(box)) for heat, box in zip(pictures, boxes, strict=True)]
    return np.array(found)


def measure(bundle: Bundle, name: str, records: Sequence[Record], corners: Floats, engine: Engine) -> dict[str, Any]:
    """Measure the median share with its 95 % interval by patient, the share by chance, and images without heatmap."""
    found = shares(bundle, name, records, corners, engine)
    seen = ~np.isnan(found)
    patients = np.array([record.patient for record in records])[seen]
    order = np.argsort(found[seen])

    def medians(weights: NDArray[np.float64]) -> dict[str, Any]:
        running = weights[:, order].cumsum(1)
        return {"median": found[seen][order][(running >= running[:, -1:] / 2).argmax(1)]}

    values, intervals = Bootstrap.of(patients).estimate(medians)
    chance = float(np.median([mask(box).mean() for box in corners]))
    return {**values, "intervals": intervals, "images": int(seen.sum()), "empty": int((~seen).sum()), "chance": chance}


def drawn_records(data: Path) -> tuple[list[Record], Floats]:
    """Draw the records of lungs.csv's images that an index.csv lists, and their boxes."""
    boxes = read_boxes(data)
    records = [record for record in read_folders(data, Kinship({}, [])).get("xray", []) if record.path in boxes]
    return records, np.stack([boxes[record.path] for record in records])


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle whose heatmaps are measured.")],
    data: Annotated[Path, typer.Option(help="Holds lungs.csv, and folders with index.csv.")],
    engine: Annotated[EngineName, typer.Option(help="What runs the backbones.")] = "openvino-int8",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the heatmaps of every X-ray head."""
    opened = Bundle.open(bundle)
    running, (records, corners) = make_engine(engine, opened), drawn_records(data)
    names = [name for name, head in opened.heads.items() if head.modality == "xray"]
    found = {name: measure(opened, name, records, corners, running) for name in names}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, row in found.items():
        Console().print(
            f"{name}: {ranged(row, 'median')} inside, {row['chance']:.3f} by chance, {row['images']} images"
        )


if __name__ == "__main__":
    typer.run(main)
