"""Train a bundle: `python -m training.train --data DIR`, where DIR holds cxr/ and ct/ with index.csv, or one of them.

Stages: the backbones (training/backbones/starting_weights.py), heads on kept views of all images with patient-wise
cross-validation on X-rays and the published split on CT slices, calibration on predictions of images that the predictor
never saw, the gate, export, int8 files, and the measurement of the written files on patients that no stage saw. The
long stages resume.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from shared.errors import ConfigError
from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import Backbone, Bundle, Card, EngineFiles, Gate, Head
from shared.inference.engine import REFERENCE
from shared.inference.engines import make_engine
from training.architectures import DENSENET, STEM, VGG
from training.backbones.starting_weights import Backbones, Choice, copy_of, make_backbones, quick
from training.bundle.export import write_card, write_network
from training.bundle.model_card import NOTICE, origins, sources
from training.bundle.quantize import int8_maps, quantize, write_parity
from training.data.images import ImageSet, folds
from training.evaluate import draw, labelled_folders, measures, show
from training.evaluation.answers import ask
from training.evaluation.figures import curves
from training.evaluation.measure import summarise_folds
from training.evaluation.parity import parity
from training.gate.fit import fit_gate, measure_gate, write_gate
from training.heads.calibrate import (
    apply_temperature,
    cross_tempered,
    fit_temperature,
    operating_points,
    review_margin,
    tempered,
)
from training.heads.cross_validation import Log, Plan, cross_validate, select_hyperparameters, splits_of, train
from training.heads.learner import Rows
from training.memory import with_memory
from training.tasks import BRANCHES, COVID, TASKS, Task, class_numbers
from training.views import Examples, Kept, Reader, at_cut, beside, compiled, keep, pooled, whole_feature_maps

console = Console()
SPEC = InputSpec()
OUT, WORK = Path("models/thoraq-3"), Path(".thoraq/training")
RECIPE = Path(__file__).with_name("recipes") / "thoraq-3.toml"
INT8 = "openvino-int8"
PARITY_IMAGES = 32


@dataclass
class Made:
    """What training has made so far, for the card."""

    out: Path
    int8: dict[str, EngineFiles] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    cross_validation: dict[str, Any] = field(default_factory=dict)
    log: Log = field(default_factory=list)

    def add(self, task: Task, head: Any, held: Any, numbers: Rows) -> None:
        """Calibrate a head on held-out probabilities and their class numbers, and write it."""
        temperature = fit_temperature(held, numbers, task.activation)
        apply_temperature(head, temperature)
        calibrated = tempered(held, temperature, task.activation)
        self.heads[task.name] = Head(
            **vars(task),
            temperature=temperature,
            review_margin=review_margin(calibrated, numbers),
            operating_points=operating_points(calibrated, numbers, task.classes.index(COVID)),
            metrics={},
            **write_network(self.out, task.name, head),
        )
        console.print(f"heads: {task.name} trained, temperature {temperature:.2f}")


def train_xray(made: Made, image_set: ImageSet, backbones: Backbones, plan: Mapping[str, Any], precision: str) -> None:
    """Train the X-ray heads, cross-validated; those of the first fold, whose test part is the main split's, are kept.

    The VGG16 of `backbones` gets the weights that it was given with the ensemble of that fold.
    """
    unfinished = [VGG] if plan["train_upper_block"] else []
    kept = keep(readers(made, backbones, precision, unfinished), image_set.images, plan["views"], "X-ray")
    parts = folds(image_set.records)
    seen = np.setdiff1d(np.arange(len(image_set.records)), parts[0])
    as_given = copy_of(VGG, backbones[VGG], "float32")

    def make() -> Backbones:
        return {name: copy_of(name, as_given, precision) for name in unfinished}

    for task in (task for task in TASKS if task.modality == "xray"):
        chosen = select_hyperparameters(task, make(), labelled(task, kept, image_set), splits_of(parts[1:]))
        made.log += chosen.log
        for one, how in [(task, chosen), *branches(task, chosen)]:
            examples = labelled(one, kept, image_set)
            found = cross_validate(one, make, how, examples, parts, console.print)
            made.cross_validation[one.name] = summary(one, image_set, examples.numbers, found.probabilities, parts)
            if one is task:
                made.add(task, found.first.head, found.probabilities[seen], examples.numbers[seen])
                if VGG in found.first.backbones and VGG in task.backbones:
                    backbones[VGG].set_weights(found.first.backbones[VGG].get_weights())


def branches(task: Task, chosen: Plan) -> list[tuple[Task, Plan]]:
    """Return an ensemble's branches, to be compared with it, each as it was chosen in it."""
    found = [branch for branch in BRANCHES if (branch.classifier, branch.modality) == (task.classifier, task.modality)]
    return [(branch, chosen.branch(task.backbones.index(branch.backbones[0]))) for branch in found]


def summary(
    task: Task, image_set: ImageSet, numbers: Rows, probabilities: Any, parts: Sequence[Rows]
) -> dict[str, Any]:
    """Return the card's entry for a task: out-of-fold answers, each fold's calibrated on the other folds."""
    calibrated = cross_tempered(probabilities, numbers, parts, task.activation)
    return summarise_folds(
        calibrated,
        numbers,
        task.classes,
        [record.patient for record in image_set.records],
        labels=[record.label for record in image_set.records],
        against=COVID,
        note=f"the ensemble's {task.backbones[0]} branch alone, with a head of its own." if task in BRANCHES else "",
    )


def train_ct(made: Made, image_set: ImageSet, backbone: Any, plan: Mapping[str, Any], precision: str) -> None:
    """Choose, calibrate and train the CT head on the published training and validation parts together.

    By cross-validation, since the hundred images of the validation part alone are too few to choose a shrinkage.
    """
    rows = image_set.rows("train", "val")
    subset = ImageSet([image_set.records[row] for row in rows], image_set.images[rows], {})
    kept = keep(readers(made, {DENSENET: backbone}, precision), subset.images, plan["views"], "CT")
    parts = folds(subset.records)
    for task in (task for task in TASKS if task.modality == "ct"):
        examples = labelled(task, kept, subset)
        chosen = select_hyperparameters(task, {}, examples, splits_of(parts))
        made.log += chosen.log
        found = cross_validate(task, dict, chosen, examples, parts, console.print)
        _, trained = train(task, dict, chosen, examples, np.arange(len(rows)))
        made.add(task, trained.head, found.probabilities, examples.numbers)


def readers(made: Made, backbones: Backbones, precision: str, unfinished: Collection[str] = ()) -> dict[str, Reader]:
    """How training reads each backbone: an unfinished one at its cut, others whole, beside their int8 files."""
    found: dict[str, Reader] = {}
    for name, copy in quick(backbones, precision).items():
        found[name] = at_cut(name, copy) if name in unfinished else pooled(compiled(copy))
        if name in made.int8:
            found[name] = beside(found[name], pooled(int8_maps(made.out, made.int8[name])))
    return found


def labelled(task: Task, kept: Mapping[str, Kept], image_set: ImageSet) -> Examples:
    """Return a task's examples; ConfigError for a label that it does not know."""
    numbers = class_numbers([record.label for record in image_set.records], task.classes)
    if (numbers < 0).any():
        raise ConfigError(f"index.csv has labels that {task.name} does not know")
    return Examples({backbone: kept[backbone] for backbone in task.backbones}, numbers)


def make_gate(out: Path, sets: Mapping[str, ImageSet], backbone: Any) -> Gate | None:
    """Make the gate, fitted and measured; None when one modality is all that there is."""
    if sets.keys() != {"xray", "ct"}:
        return None
    run = whole_feature_maps(backbone)
    train_part, val_part = ({m: s.pixels(part) for m, s in sets.items()} for part in ("train", "val"))
    arrays = fit_gate(run, train_part, val_part)
    test = {m: (s.pixels("test"), [s.records[row].patient for row in s.parts["test"]]) for m, s in sets.items()}
    return write_gate(out, DENSENET, arrays, measure_gate(run, arrays, test))


def write_int8(made: Made, sets: Mapping[str, ImageSet], backbone: Any) -> None:
    """Write the DenseNet201 in int8, its ranges set by training images of all that it sees.

    All but its first convolution: what that one loses is lost to every layer, a third of the pooled channels' error on
    X-rays, and it is a thirtieth of the time. Not the VGG16: with its 15 MB models/ would be over 120.
    """
    seen = np.concatenate([image_set.pixels("train") for image_set in sets.values()])
    made.int8[DENSENET] = quantize(backbone, seen, made.out, DENSENET, keep=[STEM])


def shared_images(sets: Mapping[str, ImageSet], named: Sequence[str]) -> Any:
    """Images of sources that may be passed on, evenly spread over their labels; None when there are none."""
    found = []
    for image_set in sets.values():
        rows = [row for row, record in enumerate(image_set.records) if record.source in named]
        rows.sort(key=lambda row: image_set.records[row].label)
        some = np.linspace(0, len(rows) - 1, min(len(rows), PARITY_IMAGES)).astype(int)
        found += [image_set.images[rows[number]] for number in some]
    return np.stack(found) if found else None


def write_log(out: Path, log: Log) -> None:
    """Write the training log as CSV, and its figure."""
    columns = list(dict.fromkeys(name for row in log for name in row))
    with (out / "training-log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(log)
    curves(out / "curves.png", log)


def measured(out: Path, card: Card, sets: Mapping[str, ImageSet]) -> Card:
    """Return the card with what the written files, not the networks in memory, do on the test parts."""
    bundle = Bundle.open(out)
    test = {modality: [s.records[row] for row in s.parts["test"]] for modality, s in sets.items()}
    answers = ask(bundle, test, make_engine(REFERENCE, bundle))
    results = measures(bundle, answers)
    show(results, console)
    draw(bundle, answers, out)
    agreements = parity(bundle, {modality: s.records for modality, s in sets.items()})
    heads = {
        name: head.model_copy(update={"metrics": results[name] | {"engines": agreements[name]}})
        for name, head in card.heads.items()
    }
    return write_card(out, card.model_copy(update={"heads": heads}))


def main(
    data: Annotated[Path, typer.Option(help="Holds cxr/ and/or ct/, each with index.csv.")],
    out: Annotated[Path, typer.Option(help="The bundle's directory; its last part is the bundle's name.")] = OUT,
    recipe: Annotated[Path, typer.Option(help="How long, and what the card says about the images.")] = RECIPE,
    backbone: Annotated[Choice, typer.Option(help="imagenet downloads weights.")] = "distil",
    precision: Annotated[str, typer.Option(help="mixed_bfloat16 halves the time where the CPU has it.")] = "float32",
    work: Annotated[Path, typer.Option(help="Checkpoints; delete it to start afresh.")] = WORK,
    begin: Annotated[
        Path | None, typer.Option(help="A bundle's densenet201.safetensors to begin with, instead of at random.")
    ] = None,
    memory: Annotated[bool, typer.Option(help="Measure the memory that it needs by engine; takes minutes.")] = True,
) -> None:
    """Train, calibrate, export and measure a model bundle."""
    plan = tomllib.loads(recipe.read_text(encoding="utf-8"))
    if begin is not None:
        plan["distil_steps"] = plan["distil_steps_begun"]
    out.mkdir(parents=True, exist_ok=True)
    sets = {modality: ImageSet.read(folder, SPEC) for modality, folder in labelled_folders(data).items()}
    backbones, log = make_backbones(backbone, sets, plan, work, precision, console.print, begin)
    made, serving = Made(out, log=log), {name: backbones[name] for name in used(sets)}
    write_int8(made, sets, serving[DENSENET])
    if "xray" in sets:
        train_xray(made, sets["xray"], backbones, plan, precision)
    if "ct" in sets:
        train_ct(made, sets["ct"], backbones[DENSENET], plan, precision)
    write_log(out, made.log)
    card = write_bundle(
        made, sets, serving, plan, origins(backbone, plan, sets.keys(), begin.parent.name if begin else "")
    )
    card = measured(out, card, sets)
    if memory:
        with_memory(out, card)
    console.print(f"written: {out}")


def used(sets: Mapping[str, ImageSet]) -> list[str]:
    """Return the backbones that the tasks of these modalities need."""
    return sorted({backbone for task in TASKS if task.modality in sets for backbone in task.backbones})


def write_bundle(
    made: Made, sets: Mapping[str, ImageSet], serving: Backbones, plan: Mapping[str, Any], origin: Mapping[str, str]
) -> Card:
    """Backbones, gate, reference answers and the card, which is complete but for the test's measures."""
    out = made.out
    card = Card(
        name=out.name,
        version=plan["version"],
        created=datetime.now(UTC).replace(microsecond=0),
        preprocessing=SPEC,
        backbones={name: Backbone(origin=origin[name], **write_network(out, name, serving[name])) for name in serving},
        heads=made.heads,
        gate=make_gate(out, sets, serving[DENSENET]),
        engines={INT8: made.int8},
        cross_validation=made.cross_validation,
        data=sources(sets, plan["sources"]),
        limits=tuple(plan["limits"]),
        notice=NOTICE,
        files={},
    )
    card = write_card(out, card)
    images = shared_images(sets, plan["may_be_passed_on"])
    if images is None:
        return card
    return write_card(out, card.model_copy(update={"parity": write_parity(Bundle.open(out, verify=False), images)}))


if __name__ == "__main__":
    typer.run(main)
