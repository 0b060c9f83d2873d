"""Measure a bundle on labelled images: `python -m training.evaluate --bundle models/NAME --data DIR`.

Images take the way that they take when served: prepared by shared/imaging, through an engine's backbones, then through
the bundle's heads and its gate. Head measures count every image whose label the head knows, also those that the gate
would not let through: it cannot flatter them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from shared.errors import ConfigError, ThoraqError
from shared.inference.bundle import Bundle, Head
from shared.inference.engine import REFERENCE, Engine, EngineName
from shared.inference.engines import make_engine
from training.data.images import Record, partition, read_index
from training.evaluation.answers import Answers, ask
from training.evaluation.by_source import by_source
from training.evaluation.by_source import show as show_sources
from training.evaluation.figures import head_figures
from training.evaluation.measure import RATES, Bootstrap, against_each, flat, measure, ranged
from training.evaluation.parity import parity
from training.heads.calibrate import TINY, margins
from training.tasks import COVID, class_numbers

Part = Literal["all", "train", "val", "test"]
Modality = Literal["xray", "ct"]
MODALITIES: dict[str, Modality] = {"cxr": "xray", "ct": "ct"}


def labelled_folders(data: Path, modality: Modality | None = None) -> dict[str, Path]:
    """Modality to folder: `data` may hold cxr/ and ct/, or be one such folder of the modality that is given."""
    found: dict[str, Path] = {m: data / name for name, m in MODALITIES.items() if (data / name / "index.csv").is_file()}
    if not found and (data / "index.csv").is_file():
        # A folder that is not called ct holds X-rays, unless we are told.
        return {modality or MODALITIES.get(data.resolve().name, "xray"): data}
    if not found:
        raise ConfigError("the data folder holds no index.csv, nor cxr/index.csv or ct/index.csv")
    return {name: folder for name, folder in found.items() if modality in {None, name}}


def evaluate(bundle: Bundle, sets: Mapping[str, list[Record]], engine: Engine | None = None) -> dict[str, Any]:
    """Measures by head, on the records of its modality, and of the gate under `gate`; float32 TensorFlow by default."""
    return measures(bundle, ask(bundle, sets, engine or make_engine(REFERENCE, bundle)))


def measures(bundle: Bundle, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Return the same, of what the bundle has already said."""
    results: dict[str, Any] = {
        name: head_measures(bundle.heads[name], part) for part in answers.values() for name in part.probabilities
    }
    gates = {m: gate_measures(m, part.kinds, part) for m, part in answers.items() if part.kinds is not None}
    return results | ({"gate": gates} if gates else {})


def head_measures(head: Head, answers: Answers) -> dict[str, Any]:
    """Return the measures of one head, and the labels that it skipped for not knowing them."""
    numbers = class_numbers(answers.labels.tolist(), head.classes, any_label=True)
    known = numbers >= 0
    found: dict[str, Any] = {"skipped": np.unique(answers.labels[~known]).tolist()}
    if not known.any():
        return found
    probabilities, numbers = answers.probabilities[head.name][known], numbers[known]
    labels, patients = answers.labels[known].tolist(), answers.patients[known].tolist()
    found |= measure(
        probabilities,
        numbers,
        head.classes,
        patients,
        to_review=to_review(head, answers)[known],
        points=head.operating_points,
        positive=head.classes.index(COVID),
    )
    pairs = against_each(probabilities, numbers, labels, patients, COVID)
    return found | ({"against": pairs} if pairs else {}) | by_each_source(head, answers, numbers, known)


def by_each_source(
    head: Head, answers: Answers, numbers: NDArray[np.int64], known: NDArray[np.bool_]
) -> dict[str, Any]:
    """Under `by_source`, a binary head's figures by source and label; `numbers` are the classes of the `known`."""
    if head.classifier != "binary":
        return {}
    probabilities = answers.probabilities[head.name][known].astype(np.float64)
    # Its two sigmoids need not add up to one: which is the higher, and by what share, is the answer.
    shares = probabilities / np.maximum(probabilities.sum(1, keepdims=True), TINY)
    cells = np.char.add(np.char.add(answers.sources[known], "/"), answers.labels[known])
    return {"by_source": by_source(shares, numbers, cells, answers.patients[known], to_review(head, answers)[known])}


def to_review(head: Head, answers: Answers) -> NDArray[np.bool_]:
    """Which single images would be sent to review: a thin margin, or the binary head has another mind on COVID-19."""
    probabilities = answers.probabilities[head.name]
    thin: NDArray[np.bool_] = margins(probabilities) < head.review_margin
    second = answers.probabilities.get(f"binary-{head.modality}")
    if head.classifier == "binary" or second is None:
        return thin
    # The binary head's first class is COVID-19.
    disagree = (second.argmax(1) == 0) != (probabilities.argmax(1) == head.classes.index(COVID))
    return np.asarray(thin | disagree)


def gate_measures(modality: str, kinds: NDArray[np.str_], answers: Answers) -> dict[str, Any]:
    """Measure what the gate rejects or takes for the other modality, with intervals, and rejected by label."""
    rejected, changed = kinds == "other", ~np.isin(kinds, ["other", modality])
    estimates = Bootstrap.of(answers.patients).shares(rejected=rejected, other_modality=changed)
    by_label = {}
    for label in np.unique(answers.labels).tolist():
        rows = answers.labels == label
        estimate = Bootstrap.of(answers.patients[rows]).shares(rejected=rejected[rows])
        by_label[label] = {"images": int(rows.sum()), **flat(estimate)}
    counts = {"images": len(rejected), "patients": len(np.unique(answers.patients))}
    return {**counts, **flat(estimates), "labels": by_label}


def draw(bundle: Bundle, answers: Mapping[str, Answers], out: Path) -> list[str]:
    """Confusion matrix, ROC curves and reliability diagram of every head, as PNG files in `out`; their names."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for part in answers.values():
        for name, probabilities in part.probabilities.items():
            classes = bundle.heads[name].classes
            numbers = class_numbers(part.labels.tolist(), classes, any_label=True)
            known = numbers >= 0
            if known.any():
                patients = part.patients[known].tolist()
                files += head_figures(out, name, probabilities[known], numbers[known], classes, patients)
    return files


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print the measures as tables, and say which labels were skipped."""
    heads = {name: found for name, found in results.items() if name != "gate"}
    for name, found in heads.items():
        if found["skipped"]:
            console.print(f"{name}: skipped the labels it does not know: {', '.join(found['skipped'])}")
    measured = {name: found for name, found in heads.items() if "scores" in found}
    if measured:
        console.print(_score_table(measured), _class_table(measured))
        for name, found in measured.items():
            console.print(_confusion_table(name, found["confusion"]))
            if "by_source" in found:
                show_sources(name, found["by_source"], console)
    for modality, found in results.get("gate", {}).items():
        rejected, changed = ranged(found, "rejected"), ranged(found, "other_modality")
        console.print(f"gate, {modality}: rejects {rejected} of {found['images']} images, other modality {changed}")


def _table(*names: str, more: Sequence[str]) -> Table:
    """Return a table whose first columns keep their words whole; in a narrow terminal the others wrap."""
    columns = [Column(name, no_wrap=True) for name in names]
    return Table(*columns, *(name.replace("_", " ") for name in more), title="95 % in brackets")


def _score_table(measured: Mapping[str, Any]) -> Table:
    names = ("accuracy", "macro_f1", "auc", "ece")
    table = _table("head", "images", more=(*names, "to review"))
    for name, found in measured.items():
        scores = {**found["scores"], "intervals": found["intervals"]}
        review = ranged(found["review"], "share")
        table.add_row(name, str(found["images"]), *(ranged(scores, score) for score in names), review)
    return table


def _class_table(measured: Mapping[str, Any]) -> Table:
    table = _table("head", "class", "images", more=RATES)
    for name, found in measured.items():
        for label, rates in found["classes"].items():
            table.add_row(name, label, str(rates["images"]), *(ranged(rates, rate) for rate in RATES))
    return table


def _confusion_table(name: str, confusion: Mapping[str, Any]) -> Table:
    table = Table(f"{name}: truth, predicted as:", *confusion["order"])
    for label, counts in zip(confusion["order"], confusion["counts"], strict=True):
        table.add_row(label, *map(str, counts))
    return table


def show_parity(found: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print how far the engines agree with TensorFlow in float32."""
    table = _table("part", "engine", more=["images", "same label", "accuracy difference", "largest difference"])
    for part, engines in found.items():
        for engine, row in engines.items():
            if "refused" in row:
                table.add_row(part, engine, f"refused: {row['refused']}")
            elif part == "gate":
                table.add_row(part, engine, str(row["images"]), ranged(row, "same_kind"))
            else:
                cells = (
                    ranged(row, "same_label"),
                    ranged(row, "accuracy_difference"),
                    f"{row['largest_difference']:.3f}",
                )
                table.add_row(part, engine, str(row["images"]), *cells)
    console.print(table)


def read_sets(data: Path, part: Part, modality: Modality | None) -> dict[str, list[Record]]:
    """Read the records to measure on, by modality."""
    sets = {}
    for name, folder in labelled_folders(data, modality).items():
        records = read_index(folder)
        rows = range(len(records)) if part == "all" else partition(records)[part]
        sets[name] = [records[row] for row in rows]
    return sets


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle's directory.")],
    data: Annotated[Path, typer.Option(help="A folder with index.csv, or one that holds cxr/ and ct/.")],
    part: Annotated[Part, typer.Option(help="all, or the part that training uses as train, val or test.")] = "all",
    modality: Annotated[Modality | None, typer.Option(help="What the folder holds; by default its name says.")] = None,
    engine: Annotated[EngineName, typer.Option(help="What runs the backbones.")] = REFERENCE,
    compare: Annotated[bool, typer.Option("--parity", help="Hold every engine to TensorFlow's float32.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Write figures (PNG) into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracy, macro F1, ROC AUC, rates by class, calibration, review and gate, each with its 95 % interval."""
    opened, sets = Bundle.open(bundle), read_sets(data, part, modality)
    answers = ask(opened, sets, make_engine(engine, opened))
    results = measures(opened, answers)
    agreements = parity(opened, sets) if compare else {}
    if figures:
        draw(opened, answers, figures)
    if as_json:
        print(json.dumps(results | ({"parity": agreements} if compare else {}), indent=2))
        return
    show(results, Console())
    if compare:
        show_parity(agreements, Console())


def run() -> None:
    """Run the command; what the user can correct is said in one line."""
    try:
        typer.run(main)
    except ThoraqError as error:
        Console(stderr=True).print(f"{error.title}: {error.detail}")
        raise SystemExit(2) from error


if __name__ == "__main__":
    run()
