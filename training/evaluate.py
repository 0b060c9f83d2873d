"""Measure a bundle on labelled images: `python -m training.evaluate --bundle models/NAME --data DIR`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from shared.bundle import Bundle, Head
from shared.errors import ConfigError
from shared.networks import rebuild
from training.data import Record, load_images, partition, read_index
from training.heads import COVID, class_numbers, feature_maps, runner
from training.measure import measure, scores

Part = Literal["all", "train", "val", "test"]
MODALITIES = {"cxr": "xray", "ct": "ct"}


def labelled_folders(data: Path) -> dict[str, Path]:
    """Modality to folder: `data` may hold cxr/ and ct/, or be one such folder."""
    found = {modality: data / name for name, modality in MODALITIES.items() if (data / name / "index.csv").is_file()}
    if not found and (data / "index.csv").is_file():
        # A folder that is not called ct holds X-rays.
        found = {MODALITIES.get(data.resolve().name, "xray"): data}
    if not found:
        raise ConfigError("the data folder holds no index.csv, nor cxr/index.csv or ct/index.csv")
    return found


def evaluate(bundle: Bundle, sets: Mapping[str, list[Record]]) -> dict[str, Any]:
    """Measures by head, on the records of its modality; each says which labels it skipped for not knowing them."""
    heads = {name: head for name, head in bundle.heads.items() if head.modality in sets}
    needed = {trunk for head in heads.values() for trunk in head.trunks}
    runners = {name: runner(rebuild(bundle, bundle.card.trunks[name])) for name in sorted(needed)}
    results: dict[str, Any] = {}
    for modality, records in sets.items():
        fitting = {name: head for name, head in heads.items() if head.modality == modality}
        used = {trunk: runners[trunk] for trunk in runners if any(trunk in head.trunks for head in fitting.values())}
        maps = feature_maps(used, load_images(records, bundle.input))
        results |= {name: evaluate_head(bundle, head, maps, records) for name, head in fitting.items()}
    return results


def evaluate_head(
    bundle: Bundle, head: Head, maps: dict[str, NDArray[np.float16]], records: list[Record]
) -> dict[str, Any]:
    """The measures of one head, given the trunks' maps of every record."""
    labels, patients = np.array([record.label for record in records]), np.array([record.patient for record in records])
    numbers = class_numbers(labels.tolist(), head.classes)
    known = numbers >= 0
    found: dict[str, Any] = {"skipped": sorted(set(labels[~known].tolist()))}
    if not known.any():
        return found
    labels, patients, numbers = labels[known], patients[known], numbers[known]
    probabilities = rebuild(bundle, head).predict([maps[trunk][known] for trunk in head.trunks], verbose=0)
    found |= measure(probabilities, numbers, head.classes, patients.tolist())
    if head.classifier == "binary":
        found["against"] = against_each(probabilities, labels)
    return found


def against_each(probabilities: NDArray[np.float32], labels: NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """Accuracy and ROC AUC of COVID-19 against each other label alone."""
    pairs = {other: np.isin(labels, [COVID, other]) for other in sorted(set(labels.tolist()) - {COVID})}
    return {other: scores(probabilities[rows], np.where(labels[rows] == COVID, 0, 1)) for other, rows in pairs.items()}


def show(results: dict[str, Any], console: Console) -> None:
    """Print the measures as a table."""
    table = Table("head", "images", "accuracy (95 %)", "macro F1 (95 %)", "AUC (95 %)", "ECE", "COVID-19 sens. / spec.")
    for name, found in results.items():
        if found["skipped"]:
            console.print(f"{name}: skipped the labels it does not know: {', '.join(found['skipped'])}")
        if "scores" not in found:
            continue
        covid = found["classes"][COVID]
        rates = " / ".join("-" if rate is None else f"{rate:.3f}" for rate in covid.values())
        cells = [with_interval(found, score) for score in ("accuracy", "macro_f1", "auc")]
        table.add_row(name, str(found["images"]), *cells, f"{found['ece']:.3f}", rates)
    console.print(table)


def with_interval(found: dict[str, Any], score: str) -> str:
    """A score and its interval, or a dash where one class alone allows none."""
    if score not in found["scores"]:
        return "-"
    low, high = found["intervals"][score]
    return f"{found['scores'][score]:.3f} ({low:.3f} to {high:.3f})"


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle's directory.")],
    data: Annotated[Path, typer.Option(help="A folder with index.csv, or one that holds cxr/ and ct/.")],
    part: Annotated[Part, typer.Option(help="all, or the part that training uses as train, val or test.")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracy, macro F1, ROC AUC, sensitivity, specificity and calibration of every head that fits the images."""
    sets = {}
    for modality, folder in labelled_folders(data).items():
        records = read_index(folder)
        rows = range(len(records)) if part == "all" else partition(records)[part]
        sets[modality] = [records[row] for row in rows]
    results = evaluate(Bundle.open(bundle), sets)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        show(results, Console())


if __name__ == "__main__":
    typer.run(main)
