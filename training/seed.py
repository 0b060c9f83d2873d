"""The published result made again: `python -m training.seed --data DIR`, DIR a folder of CT slices with index.csv.

Jaiswal et al. 2020 (doi 10.1080/07391102.2020.1788642) report an accuracy of 0.96 on the SARS-CoV-2 CT data set (Soares
et al. 2020) with four fifths of the slices, drawn at random, to train on. Their head is fitted here to a bundle's
DenseNet201 by the same protocol. Neighbouring slices of one patient then lie on both sides: it is said beside what is
left when whole runs of slices (the column `patient`) are kept on one side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from sklearn.model_selection import GroupKFold, train_test_split

from shared.errors import ConfigError
from shared.inference.bundle import Bundle
from shared.inference.engine import EngineName
from shared.inference.engines import make_engine
from training.architectures import DENSENET
from training.bundle.card_parts import confusion_table
from training.data.images import FOLDS, SEED, Record, read_index
from training.evaluation.measure import measure, ranged
from training.heads.learner import Learner
from training.sources import WORK, Matrix, backbone_means
from training.tasks import TASKS, class_numbers
from training.views import Examples

TASK = next(task for task in TASKS if (task.classifier, task.modality) == ("binary", "ct"))
PUBLISHED = 0.96
#: Inverse penalties that are tried on a part of the training slices; weaker than any that helps at other sources, since
#: here what tells slices of one scanner apart is wanted.
STRENGTHS = (0.03, 0.1, 0.3, 1.0)
HELD_BACK = 0.2
WHY = (
    "Neighbouring slices of a patient are alike, and a random split puts them on both sides. The figure says that the "
    "slices of this collection can be told apart, and nothing about another scanner."
)
Rows = NDArray[np.int64]


def answers(means: Matrix, numbers: Rows, seen: Rows, held: Rows, strength: float) -> NDArray[np.float32]:
    """Return what the published head says (held, 2) of some images when it is fitted to others."""
    examples = Examples({DENSENET: means.astype(np.float16)[np.newaxis, :, np.newaxis, np.newaxis]}, numbers)
    learner = Learner(TASK, {}, examples, seen)
    learner.carry(learner.shrink((strength,), examples, seen), (1.0,))
    return learner.predict(examples, held)


def drawn(rows: Rows, numbers: Rows) -> tuple[Rows, Rows]:
    """Four fifths of the rows at random, and the rest, with the same share of each class."""
    seen, held = train_test_split(rows, test_size=HELD_BACK, random_state=SEED, stratify=numbers[rows])
    return seen, held


def strength_for(means: Matrix, numbers: Rows, rows: Rows) -> float:
    """Choose the strength that is right most often on a fifth of these rows when the head is fitted to the rest."""
    seen, held = drawn(rows, numbers)
    right = [(answers(means, numbers, seen, held, one).argmax(1) == numbers[held]).mean() for one in STRENGTHS]
    return STRENGTHS[int(np.argmax(right))]


def protocols(means: Matrix, records: Sequence[Record]) -> dict[str, Any]:
    """Return the measures of a random fifth, and of every image when its run of slices is left out."""
    numbers = class_numbers([record.label for record in records], TASK.classes)
    if set(numbers.tolist()) != {0, 1}:
        raise ConfigError("the protocol needs slices with COVID-19 and slices without, and no other label")
    seen, held = drawn(np.arange(len(records)), numbers)
    strength = strength_for(means, numbers, seen)
    patients = [record.patient for record in records]
    apart = np.zeros((len(records), 2), np.float32)
    for others, part in GroupKFold(FOLDS).split(means, groups=patients):
        apart[part] = answers(means, numbers, others, part, strength)
    said = answers(means, numbers, seen, held, strength)
    return {
        "random": measure(said, numbers[held], TASK.classes, [str(row) for row in held.tolist()]),
        "apart": measure(apart, numbers, TASK.classes, patients),
        "strength": strength,
        "published": PUBLISHED,
        "why": WHY,
    }


def main(
    data: Annotated[Path, typer.Option(help="A folder of CT slices with index.csv.")],
    bundle: Annotated[Path, typer.Option(help="The bundle whose DenseNet201 is used.")] = Path("models/thoraq-4"),
    source: Annotated[str | None, typer.Option(help="Of several sources in the folder, this one alone.")] = None,
    engine: Annotated[EngineName, typer.Option(help="What runs the backbone.")] = "openvino-int8",
    work: Annotated[Path, typer.Option(help="What the backbone made of the images.")] = WORK,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit the published head to a random four fifths, and say how well it does on the rest."""
    opened = Bundle.open(bundle)
    records = [record for record in read_index(data) if source in {None, record.source}]
    if not records:
        raise ConfigError(f"{data.name}/index.csv has no images of {source}")
    found = protocols(backbone_means(opened, DENSENET, records, make_engine(engine, opened), work), records)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console()
    for name, what in (("random", "a random fifth"), ("apart", "runs of slices kept apart, five-fold")):
        scores = {**found[name]["scores"], "intervals": found[name]["intervals"]}
        console.print(f"{what}: accuracy {ranged(scores, 'accuracy')}, ROC AUC {ranged(scores, 'auc')}")
        console.print(confusion_table("truth", found[name]["confusion"]), markup=False)
    console.print(f"published: {PUBLISHED:.2f}. {WHY}")


if __name__ == "__main__":
    typer.run(main)
