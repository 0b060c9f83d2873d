"""The yardstick: `python -m training.sources --data DIR`, how well heads do at a source that they never saw.

DIR holds folders with index.csv (training/data/folders.py). Every image is answered twice: by a head that is fitted,
calibrated and thresholded without its source (training/heads/left_out_sources.py), on what the bundle's backbone makes
of it; and, where the bundle was not trained on the image's source, by the bundle as it serves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from shared.errors import ThoraqError
from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import Bundle, Head
from shared.inference.engine import Engine, EngineName
from shared.inference.engines import make_engine
from shared.inference.heads import HeadNetwork
from training.architectures import DENSENET
from training.data.copies import groups
from training.data.folders import RECIPE, Kinship, Modality, lone_classes, read_folders
from training.data.images import Record, load_images
from training.evaluation.answers import CHUNK
from training.evaluation.by_source import by_source, show
from training.heads.calibrate import TINY, margins
from training.heads.left_out_sources import Fit, Study, answer
from training.tasks import COVID, plain_label
from training.views import pooled_mean

WORK = Path(".thoraq/sources")
OUT = Path("models/thoraq-4")
PIECE = 10 * CHUNK  # images between two writings of what is kept
HASHED = 64  # pixels of an image in which copies are looked for
Matrix = NDArray[np.float32]


def backbone_means(bundle: Bundle, backbone: str, records: Sequence[Record], engine: Engine, work: Path) -> Matrix:
    """Means (N, channels) of a backbone's maps of the images, computed or read from what an earlier run left in `work`.

    Kept by the bundle, the engine and the list of images, and written as it grows: a run that was stopped goes on where
    it was.
    """
    names = "\n".join(str(record.path) for record in records)
    key = hashlib.sha256(f"{bundle.sha256} {engine.name} {names}".encode()).hexdigest()[:16]
    file = work / f"{backbone}-{key}.npy"
    work.mkdir(parents=True, exist_ok=True)
    means = list(np.load(file)) if file.exists() else []
    for start in range(len(means), len(records), PIECE):
        piece = records[start : start + PIECE]
        for first in range(0, len(piece), CHUNK):
            maps = engine.feature_maps(load_images(piece[first : first + CHUNK], bundle.input), [backbone])[backbone]
            means += list(pooled_mean(maps)[:, 0, 0].astype(np.float16))
        np.save(file, np.array(means))
    return np.array(means, np.float32)


def answers_to(bundle: Bundle, head: Head, means: Mapping[str, Matrix]) -> NDArray[np.float64]:
    """Return what a head says (N, classes) of means (N, channels) by backbone.

    Training makes heads that weigh every place of a map alike (training/heads/learner.py), so that maps which are the
    same everywhere get the answers of those that they are the means of.
    """
    network = HeadNetwork.load(bundle, head)
    maps = {
        backbone: np.broadcast_to(means[backbone][:, np.newaxis, np.newaxis], (len(means[backbone]), *shape))
        for backbone, shape in network.shapes.items()
    }
    starts = range(0, len(next(iter(means.values()))), CHUNK)
    parts = [network.predict({backbone: part[s : s + CHUNK] for backbone, part in maps.items()}) for s in starts]
    return np.concatenate(parts).astype(np.float64)


def measure_left_out(study: Study) -> dict[str, Any]:
    """Return the yardstick's figures, with the sources that could not be left out under `not_left_out`."""
    found = answer(study)
    rows = ~np.isnan(found.probabilities)
    probabilities = np.stack([found.probabilities, 1 - found.probabilities], axis=1)
    patients = np.array([record.patient for record in study.records])
    numbers = 1 - study.numbers
    measured = by_source(probabilities[rows], numbers[rows], study.cells[rows], patients[rows], found.to_review[rows])
    missing = sorted({*study.sources.tolist()} - found.margins.keys())
    return measured | ({"not_left_out": missing} if missing else {})


def measure_served(bundle: Bundle, head: Head, study: Study) -> dict[str, Any]:
    """Measure the bundle's own answers to images of sources that it was not trained on; empty when there are none."""
    same = study.kinship.same
    trained = {same.get(source.name, source.name) for source in bundle.card.data}
    rows = ~np.isin(study.sources, sorted(trained))
    if not rows.any():
        return {}
    answers = answers_to(bundle, head, {DENSENET: study.means[rows]})
    patients = np.array([record.patient for record in study.records])[rows]
    # The sigmoids of a binary head need not add up to one: what counts is which is higher.
    share = answers / np.maximum(answers.sum(1, keepdims=True), TINY)
    return by_source(share, 1 - study.numbers[rows], study.cells[rows], patients, margins(answers) < head.review_margin)


def study_of(records: Sequence[Record], means: Matrix, kinship: Kinship, how: Fit) -> Study:
    """Return the images with what keeps them apart; copies are looked for in the images themselves."""
    hashed = load_images(records, InputSpec(size=HASHED))
    positive = np.array([plain_label(record.label) == COVID for record in records])
    return Study(means, records, positive, kinship, groups(hashed), how)


def main(
    data: Annotated[Path, typer.Option(help="Holds folders with index.csv; those called ct... hold CT slices.")],
    bundle: Annotated[Path, typer.Option(help="The bundle whose backbone is measured.")] = OUT,
    engine: Annotated[EngineName, typer.Option(help="What runs the backbone.")] = "openvino-int8",
    modality: Annotated[Modality | None, typer.Option(help="X-rays or CT slices alone.")] = None,
    kin: Annotated[Path, typer.Option(help="Which sources are left out together.")] = RECIPE,
    strength: Annotated[float, typer.Option(help="Inverse penalty of the heads.")] = Fit.strength,
    evenness: Annotated[float, typer.Option(help="1: sources count alike; 0: images do.")] = Fit.evenness,
    work: Annotated[Path, typer.Option(help="What the backbone made of the images; delete it to start afresh.")] = WORK,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure heads on sources that they were not fitted to, and the bundle on those that it was not trained on."""
    opened, kinship, console = Bundle.open(bundle), Kinship.read(kin), Console(stderr=as_json)
    running, results = make_engine(engine, opened), dict[str, Any]()
    for name, records in read_folders(data, kinship).items():
        if modality not in {None, name}:
            continue
        means = backbone_means(opened, DENSENET, records, running, work)
        study = study_of(records, means, kinship, Fit(strength, evenness))
        lone = lone_classes(records, ("not COVID-19", "COVID-19"), study.numbers)
        results[f"binary-{name}"] = {
            "left_out": measure_left_out(study),
            "served": measure_served(opened, opened.head_for("binary", name), study),
            "one_source_alone": lone,
        }
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for name, found in results.items():
        report(name, found, console)


def report(name: str, found: Mapping[str, Any], console: Console) -> None:
    """Print one modality's figures."""
    show(f"{name}, fitted without the source", found["left_out"], console)
    for source in found["left_out"].get("not_left_out", []):
        console.print(f"{name}: not measured without {source}: one class alone is left")
    for label, source in found["one_source_alone"].items():
        console.print(f"{name}: {source} alone has {label}")
    if found["served"]:
        show(f"{name}, as served, sources it was not trained on", found["served"], console)


def run() -> None:
    """Run the command; what the user can correct is said in one line."""
    try:
        typer.run(main)
    except ThoraqError as error:
        Console(stderr=True).print(f"{error.title}: {error.detail}")
        raise SystemExit(2) from error


if __name__ == "__main__":
    run()
