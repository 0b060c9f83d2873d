"""`python -m bench.engines`: images a second of every engine of this machine, and what more than one answer costs.

Into results.json, under `engines`. Without HTTP, database and decoding: those are in the other figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.machine import machine, versions
from bench.peers.model import keras_network
from bench.report import RESULTS, Spread, plain, ratio, read, spread, write
from shared.config import Settings
from shared.inference.bundle import Bundle
from shared.inference.engine import REFERENCE, Engine
from shared.inference.engines import candidates, choose_engine, make_engine
from shared.inference.heads import HeadNetwork

BATCH = 16
PREDICT = "keras predict"
Pixels = NDArray[np.uint8]
Act = Callable[[], object]


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle to run.")] = Settings.model_fields["model_dir"].default,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; everything runs once in each.")] = 5,
    out: Annotated[Path, typer.Option(help="The results file that gets the figures.")] = RESULTS,
) -> None:
    """Measure the engines. The ratios are the claim; the absolute numbers are this machine's."""
    found = measure(Bundle.open(bundle), rounds)
    write(out, read(out) | {"engines": found})
    show(found, Console())


def measure(bundle: Bundle, rounds: int) -> dict[str, Any]:
    """Everything that is kept: rates by case, and what they come to."""
    images = pictures(bundle.input.size)
    default = choose_engine(bundle, max_batch=BATCH).engine
    cases = engine_cases(bundle, images) | answer_cases(bundle, default, images)
    seconds = run_rounds({name: act for name, (act, _) in cases.items()}, rounds)
    rates = {name: [count / each for each in seconds[name]] for name, (_, count) in cases.items()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(bundle.path),
        "versions": versions(),
        "bundle": {"name": bundle.name, "sha256": bundle.sha256},
        "rounds": rounds,
        "default": default.name,
        "images_per_second": plain({name: spread(values) for name, values in rates.items()}),
        "ratios": plain(conclusions(default.name, seconds, rates)),
    }


def engine_cases(bundle: Bundle, images: Pixels) -> dict[str, tuple[Act, int]]:
    """Return the binary classifier for X-rays on every engine, alone and in batches; name to act, and its images."""
    head = bundle.head_for("binary", "xray")
    network = HeadNetwork.load(bundle, head)
    cases: dict[str, tuple[Act, int]] = {PREDICT: (_predict_one_by_one(bundle, images[:2]), 2)}
    for name in candidates(bundle, "auto"):
        engine = make_engine(name, bundle, BATCH)
        engine.warm_up()
        for batch, repeats in ((1, 4), (BATCH, 1)):
            act = partial(_answer, engine, network, images[:batch], repeats)
            cases[f"{name}, batch {batch}"] = (act, batch * repeats)
    return cases


def answer_cases(bundle: Bundle, engine: Engine, images: Pixels) -> dict[str, tuple[Act, int]]:
    """Return what the default engine's user asks for: one classifier, the other, both, and the heatmaps of both."""
    heads = {name: bundle.head_for(name, "xray") for name in ("binary", "ensemble")}
    networks = {name: HeadNetwork.load(bundle, head) for name, head in heads.items()}
    maps = engine.feature_maps(images, bundle.card.backbones.keys())
    classes = np.zeros(len(images), np.int64)

    def ask(*names: str) -> Act:
        backbones = {backbone for name in names for backbone in heads[name].backbones}

        def act() -> None:
            found = engine.feature_maps(images, backbones)
            for name in names:
                networks[name].predict(found)

        return act

    return {
        "binary alone": (ask("binary"), BATCH),
        "ensemble alone": (ask("ensemble"), BATCH),
        "both classifiers": (ask("binary", "ensemble"), BATCH),
        "binary heatmaps": (lambda: networks["binary"].explain(maps, classes), BATCH),
        "ensemble heatmaps": (lambda: networks["ensemble"].explain(maps, classes), BATCH),
    }


def run_rounds(cases: Mapping[str, Act], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case in every round; A B C A B C, so that what else the machine does falls on all alike."""
    for act in cases.values():
        act()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in track(range(rounds), "engines", console=Console(stderr=True), transient=True):
        for name, act in cases.items():
            started = time.perf_counter()
            act()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def conclusions(
    default: str, seconds: Mapping[str, Sequence[float]], rates: Mapping[str, Sequence[float]]
) -> dict[str, Spread]:
    """Return the figures that docs/explain/how-fast.md quotes, compared within each round."""
    ours = rates[f"{default}, batch {BATCH}"]
    return {
        "default engine to TensorFlow float32": ratio(ours, rates[f"{REFERENCE}, batch {BATCH}"]),
        "default engine to keras predict one by one": ratio(ours, rates[PREDICT]),
        "seconds of both classifiers to the ensemble's": ratio(seconds["both classifiers"], seconds["ensemble alone"]),
        "seconds of heatmaps to the binary classifier's": ratio(seconds["binary heatmaps"], seconds["binary alone"]),
        "seconds of heatmaps to the ensemble's": ratio(seconds["ensemble heatmaps"], seconds["ensemble alone"]),
    }


def pictures(size: int) -> Pixels:
    """Smooth noise (BATCH, size, size): how long a network takes does not depend on what it sees."""
    coarse = np.random.default_rng(1).uniform(0, 255, (BATCH, size // 8 + 1, size // 8 + 1))
    return coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size].astype(np.uint8)


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    table = Table("", "median", "lowest", "highest", title=f"{found['bundle']['name']}; default: {found['default']}")
    for part in ("images_per_second", "ratios"):
        for name, row in found[part].items():
            table.add_row(f"{name}, images/s" if part == "images_per_second" else name, *(str(v) for v in row.values()))
        table.add_section()
    console.print(table)


def _answer(engine: Engine, network: HeadNetwork, images: Pixels, times: int) -> None:
    for _ in range(times):
        network.predict(engine.feature_maps(images, network.backbones))


def _predict_one_by_one(bundle: Bundle, images: Pixels) -> Act:
    """Return what a first version of a service does: Keras' `predict`, image by image."""
    network = keras_network(bundle, bundle.head_for("binary", "xray"))
    tensors = np.repeat(images[..., np.newaxis], bundle.input.channels, axis=-1).astype(np.float32)

    def act() -> None:
        for tensor in tensors:
            network.predict(tensor[np.newaxis], verbose=0)

    return act


if __name__ == "__main__":
    typer.run(main)
