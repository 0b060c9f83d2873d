"""Refit a bundle's heads to many sources: `python -m training.refit --bundle OLD --data DIR --out NEW`.

Backbones, gate and int8 files stay as they are, and so does the memory that they need. DIR holds folders with index.csv
(training/data/folders.py). Scale, offset and thresholds come from answers to sources that the answering head does not
know (training/heads/left_out_sources.py): a head that is calibrated on the hospitals it was fitted to is sure of itself
at any other (DeGrave et al. 2021, doi 10.1038/s42256-021-00338-7). cxr/ and ct/ keep their test parts, whose patients
no head is fitted to.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from shared.errors import ConfigError
from shared.inference.bundle import Bundle, Card, Head
from shared.inference.engine import Engine, EngineName
from shared.inference.engines import make_engine
from shared.inference.parity import Reference
from training.architectures import DENSENET
from training.bundle.export import write_card, write_network
from training.bundle.model_card import sources_of
from training.bundle.quantize import write_parity
from training.data.folders import Flags, Kinship, at_most, read_folders
from training.data.images import Record, partition, read_index
from training.evaluate import MODALITIES, draw, measures, show
from training.evaluation.answers import ask
from training.heads.calibrate import operating_points, review_margin
from training.heads.learner import first_dense, spread
from training.heads.left_out_classes import ClassStudy, join
from training.heads.left_out_sources import Fit, Matrix, Study, two_columns
from training.heads.shrinkage import Regression, carry
from training.sources import WORK, backbone_means, measure_left_out, study_of
from training.tasks import COVID, TASKS, Task, class_numbers

console = Console()
RECIPE = Path(__file__).with_name("recipes") / "thoraq-4.toml"
#: What the int8 engine is compared with.
PLAIN: EngineName = "openvino-float32"
#: Below this AUC at sources that it does not know, a head has nothing to be sure of: every answer asks for review.
NEARLY_CHANCE = 0.65
REVIEW_ALL = 1.0


@dataclass(frozen=True)
class Fitted:
    """A head's regressions (one for each backbone), its held-out answers, and how it does on left-out sources."""

    regressions: Sequence[Regression]
    temperature: float
    margin: float
    held: NDArray[np.float64]  # (K, classes)
    numbers: NDArray[np.int64]  # (K,)
    left_out: Mapping[str, Any]


def fit_binary(study: Study) -> Fitted:
    """Return the binary head, calibrated on left-out sources.

    Where it is near chance there, no scale makes sense of its logits: then it is calibrated on other patients of the
    sources that it knows, and every answer asks for review.
    """
    measured = measure_left_out(study)
    sure = measured["pooled"].get("auc", 0.0) >= NEARLY_CHANCE
    found = study.calibrated() if sure else study.calibrated_by_patient()
    if found is None:
        raise ConfigError("a head needs images with and without COVID-19")
    known = ~np.isnan(found.held_logits)
    numbers = np.where(study.positive[known], 0, 1).astype(np.int64)
    kernel = np.stack([found.head.kernel, -found.head.kernel], axis=1).astype(np.float32)
    bias = np.array([found.head.bias, -found.head.bias], np.float32)
    margin = found.margin if sure else REVIEW_ALL
    return Fitted([(kernel, bias)], 1 / found.scale, margin, two_columns(found.held_logits[known]), numbers, measured)


def fit_classes(study: ClassStudy) -> Fitted:
    """Return the ensemble: weights of its backbones, temperature and margin from left-out sources."""
    found = join(study)
    known = ~np.isnan(found.held).any(axis=1)
    held, numbers = found.held[known], study.numbers[known]
    regressions = [
        ((kernel * share / found.temperature).astype(np.float32), (bias * share / found.temperature).astype(np.float32))
        for (kernel, bias), share in zip(study.fit(), found.shares, strict=True)
    ]
    correct = held.argmax(1) == numbers
    cells = study.study.cells[known]
    by_cell = {
        cell: {"images": int((cells == cell).sum()), "accuracy": float(correct[cells == cell].mean())}
        for cell in np.unique(cells).tolist()
    }
    measured = {"accuracy_by_cell": by_cell, "shares": found.shares}
    return Fitted(
        regressions, found.temperature, review_margin(held, numbers, most=study.study.how.most), held, numbers, measured
    )


def write_head(out: Path, task: Task, fitted: Fitted) -> Head:
    """Return the published head that computes the regressions, and its entry in the card."""
    twin, head = task.head(side=2), task.head()
    kernel = np.concatenate([kernel for kernel, _ in fitted.regressions])
    carry(twin, first_dense(twin), kernel, np.sum([bias for _, bias in fitted.regressions], axis=0))
    for layer in twin.layers:
        if layer.weights:
            spread(layer, head)
    return Head(
        **vars(task),
        temperature=fitted.temperature,
        review_margin=fitted.margin,
        operating_points=operating_points(fitted.held, fitted.numbers, task.classes.index(COVID)),
        metrics={"left_out": fitted.left_out},
        **write_network(out, task.name, head),
    )


def test_parts(data: Path) -> dict[str, list[Record]]:
    """By modality the records that nothing is fitted to: the test parts of cxr/ and ct/."""
    found: dict[str, list[Record]] = {}
    for name, modality in MODALITIES.items():
        if (data / name / "index.csv").is_file():
            records = read_index(data / name)
            found[modality] = [records[row] for row in partition(records)["test"]]
    return found


def unheld(study: Study, held: Sequence[Record]) -> Flags:
    """Return the images (N,) that share neither patient nor picture with those held back."""
    paths, patients = {record.path for record in held}, {record.patient for record in held}
    mine = np.array([record.path in paths for record in study.records])
    theirs = np.array([record.patient in patients for record in study.records])
    return np.asarray(~(mine | theirs | np.isin(study.copies, study.copies[mine])), bool)


def part_of(study: Study, rows: Flags) -> Study:
    """Return the study of some of its images."""
    records = [record for record, wanted in zip(study.records, rows, strict=True) if wanted]
    return Study(
        study.means[rows], records, study.positive[rows], study.kinship, study.copies[rows], study.how, study.rounding
    )


class Refitting:
    """A bundle on its way: what the old one's backbones make of the images, and the new heads."""

    def __init__(self, old: Bundle, engine: Engine, work: Path, plan: Mapping[str, Any]) -> None:
        self.old, self.engine, self.work, self.plan = old, engine, work, plan

    def study(self, modality: str, records: Sequence[Record], kinship: Kinship, held: Sequence[Record]) -> Study:
        """Return a modality's images without those held back."""
        records = self.some(modality, records)
        how = Fit(
            self.plan[f"strength_{modality}"],
            self.plan["evenness"],
            most=self.plan["most_to_review"],
            counts=self.plan.get(f"counts_{modality}", {}),
        )
        study = study_of(records, self._means(records, self.engine), kinship, how)
        return part_of(study, unheld(study, held))

    def some(self, modality: str, records: Sequence[Record]) -> list[Record]:
        """Return as many of each source and label as the recipe says are enough."""
        most = self.plan.get(f"images_{modality}", len(records))
        return [records[row] for row in at_most(records, most)]

    def rounding(self, folders: Mapping[str, Sequence[Record]]) -> Matrix | None:
        """Return how far the engine's means of some images are from those in float32; no label has a part in it.

        Of both modalities, for every head: the reference images that an engine is held to are answered by all heads.
        """
        if self.engine.name == PLAIN:
            return None
        plain, found = make_engine(PLAIN, self.old), []
        for modality, records in folders.items():
            mine = self.some(modality, records)
            rows = at_most(mine, self.plan["rounded_images"])
            found.append(self._means(mine, self.engine)[rows] - self._means([mine[row] for row in rows], plain))
        return np.concatenate(found)

    def _means(self, records: Sequence[Record], engine: Engine) -> Matrix:
        return backbone_means(self.old, DENSENET, records, engine, self.work)

    def heads(self, out: Path, modality: str, study: Study) -> dict[str, Head]:
        """Return the heads of a modality, written to `out`."""
        return {
            task.name: write_head(out, task, self.fitted(task, study)) for task in TASKS if task.modality == modality
        }

    def fitted(self, task: Task, study: Study) -> Fitted:
        """Return a task's regressions."""
        console.print(f"fitting: {task.name}")
        if task.classifier == "binary":
            return fit_binary(study)
        return fit_classes(self._classes(task, study))

    def _classes(self, task: Task, study: Study) -> ClassStudy:
        """At most so many images of each source and label, of the labels that the task knows."""
        numbers = class_numbers([record.label for record in study.records], task.classes)
        rows = np.zeros(len(numbers), bool)
        rows[at_most(study.records, self.plan["ensemble_images"])] = True
        rows &= numbers >= 0
        some = part_of(study, rows)
        means = {
            name: some.means
            if name == DENSENET
            else backbone_means(self.old, name, some.records, self.engine, self.work)
            for name in task.backbones
        }
        rounding = {} if some.rounding is None else {DENSENET: some.rounding}
        return ClassStudy(some, means, numbers[rows], len(task.classes), self.plan["strength"], rounding)


def copy_kept(old: Bundle, out: Path) -> None:
    """Backbones, their engine files, the gate and its weights."""
    card = old.card
    parts = [file for backbone in card.backbones.values() for file in (backbone.architecture, backbone.weights)]
    parts += [file for each in card.engines.values() for one in each.values() for file in (one.model, one.weights)]
    for file in parts + ([card.gate.weights] if card.gate else []):
        shutil.copyfile(old.path / file, out / file)


def measured(out: Path, card: Card, test: Mapping[str, list[Record]], engine: EngineName) -> Card:
    """Return the card with what the written files do on the test parts, on the engine that the heads are for."""
    bundle = Bundle.open(out)
    answers = ask(bundle, test, make_engine(engine, bundle))
    results = measures(bundle, answers)
    show(results, console)
    draw(bundle, answers, out)
    heads = {
        name: head.model_copy(update={"metrics": head.metrics | results.get(name, {})})
        for name, head in card.heads.items()
    }
    return write_card(out, card.model_copy(update={"heads": heads}))


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle whose backbones are kept.")],
    data: Annotated[Path, typer.Option(help="Holds folders with index.csv; cxr/ and ct/ keep their test parts.")],
    out: Annotated[Path, typer.Option(help="The new bundle's directory; its last part is the bundle's name.")],
    recipe: Annotated[Path, typer.Option(help="Penalties, and what the card says about the images.")] = RECIPE,
    engine: Annotated[EngineName, typer.Option(help="What runs the backbones.")] = "openvino-int8",
    work: Annotated[Path, typer.Option(help="What the backbones made of the images.")] = WORK,
) -> None:
    """Fit, calibrate, write and measure new heads on a bundle's backbones."""
    old, plan, kinship = Bundle.open(bundle), tomllib.loads(recipe.read_text(encoding="utf-8")), Kinship.read()
    refitting = Refitting(old, make_engine(engine, old), work, plan)
    out.mkdir(parents=True, exist_ok=True)
    copy_kept(old, out)
    heads: dict[str, Head] = {}
    test, used = test_parts(data), dict[str, list[Record]]()
    folders = read_folders(data, kinship)
    rounding = refitting.rounding(folders)
    for modality, records in folders.items():
        study = replace(refitting.study(modality, records, kinship, test.get(modality, [])), rounding=rounding)
        heads |= refitting.heads(out, modality, study)
        used[modality] = list(study.records)
    card = old.card.model_copy(
        update={
            "name": out.name,
            "version": plan["version"],
            "created": datetime.now(UTC).replace(microsecond=0),
            "heads": heads,
            "data": sources_of(used, test, plan["sources"]),
            "limits": tuple(plan["limits"]),
            "cross_validation": {},
            "parity": None,
        }
    )
    card = write_card(out, card)
    reference = Reference.read(old)
    if reference is not None:
        name = write_parity(Bundle.open(out, verify=False), reference.images)
        card = write_card(out, card.model_copy(update={"parity": name}))
    if test:
        measured(out, card, test, engine)
    console.print(f"written: {out}")


if __name__ == "__main__":
    typer.run(main)
