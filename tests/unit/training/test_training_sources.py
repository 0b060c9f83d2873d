"""What is fitted for a source knows nothing of it, nor of its kin and copies; figures are of the images they name."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from shared.errors import ConfigError
from shared.inference.bundle import Bundle
from tests.support.bundles.brightness import tiny_bundle
from training import sources
from training.data.copies import difference_hash, groups
from training.data.folders import Kinship, cells, lone_classes, read_folders, weights_of
from training.data.images import Record
from training.evaluation.by_source import by_source
from training.heads.left_out_sources import Fit, Study, answer

NONE = Kinship({}, [])
SOURCES = ("north", "south", "east")


def record(source: str, label: str, number: int = 0) -> Record:
    return Record(Path(f"{source}-{label}-{number}.png"), label, f"{source}-{label}-{number}", source=source)


def study(kinship: Kinship = NONE, copies: dict[int, int] | None = None) -> Study:
    """Four sources with both classes: a noisy channel says COVID-19 in all, another one better in three of them."""
    rng = np.random.default_rng(7)
    records, means = [], []
    for number, source in enumerate("abcd"):
        for label, centre in (("covid19", 1.0), ("normal", -1.0)):
            for image in range(30):
                records.append(record(source, label, image))
                # Where the last source is not known, the shortcut holds; there it points the other way.
                shortcut = 4 * centre * (-1 if source == "d" else 1)
                means.append([centre + rng.normal(0, 3), shortcut, number, *rng.normal(0, 0.5, 3)])
    owners = np.arange(len(records))
    for copy, original in (copies or {}).items():
        owners[copy] = owners[original]
    positive = np.array([one.label == "covid19" for one in records])
    return Study(np.array(means, np.float32), records, positive, kinship, owners, Fit(1e-2))


def test_nothing_of_a_left_out_source_has_a_part_in_its_answers() -> None:
    plain = study()
    changed = study()
    rows = changed.sources == "d"
    changed.positive[rows] = ~changed.positive[rows]
    first, second = answer(plain), answer(changed)
    assert np.allclose(first.probabilities[rows], second.probabilities[rows])
    assert first.margins["d"] == second.margins["d"]
    assert not np.allclose(first.probabilities[~rows], second.probabilities[~rows])


def test_a_shortcut_that_holds_elsewhere_shows_at_the_source_where_it_does_not() -> None:
    one = study()
    found = answer(one)
    right = (found.probabilities > 0.5) == one.positive
    assert right[one.sources == "a"].mean() > 0.8
    assert right[one.sources == "d"].mean() < 0.4


def test_kin_and_copies_are_left_out_too() -> None:
    kinship = Kinship({}, [("a", "b:normal")])
    one = study(kinship, copies={70: 0})
    without = one.without("a")
    assert not without[one.cells == "a/covid19"].any()
    assert not without[one.cells == "b/normal"].any()
    kept = one.cells == "b/covid19"
    assert without[kept].sum() == 29  # one of them is a copy of an image of a
    assert not one.without("b")[one.sources == "a"].any()


def test_a_source_without_which_one_class_is_left_is_not_answered() -> None:
    records = [record("a", "covid19", n) for n in range(5)] + [record("b", "normal", n) for n in range(5)]
    means = np.arange(20, dtype=np.float32).reshape(10, 2)
    positive = np.arange(10) < 5
    one = Study(means, records, positive, NONE, np.arange(10))
    found = answer(one)
    assert np.isnan(found.probabilities).all()
    assert not found.margins
    assert lone_classes(records, ("other", "covid19"), one.numbers) == {"covid19": "a", "other": "b"}


def test_classes_count_alike_and_so_do_the_sources_of_a_class() -> None:
    records = [record("a", "covid19", n) for n in range(8)] + [record("b", "covid19"), record("b", "normal")]
    numbers = np.array([1] * 9 + [0])
    even = weights_of(cells(records), numbers)
    assert even.mean() == pytest.approx(1)
    assert even[:8].sum() == pytest.approx(even[8]) == pytest.approx(even[9] / 2)
    plain = weights_of(cells(records), numbers, evenness=0)
    assert plain[0] == pytest.approx(plain[8])
    assert plain[:9].sum() == pytest.approx(plain[9])


def soft_noise(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Clouds, dark and bright, (200, 180)."""
    blurred = cv2.GaussianBlur(rng.normal(0, 1, (200, 180)), (0, 0), 12)
    return np.asarray(255 * (blurred - blurred.min()) / (blurred.max() - blurred.min()), np.uint8)


def test_the_same_picture_in_two_sizes_is_a_copy() -> None:
    rng = np.random.default_rng(3)
    pictures = [soft_noise(rng) for _ in range(3)]
    small = np.asarray(cv2.resize(pictures[1], (110, 120), interpolation=cv2.INTER_AREA), np.uint8)
    found = groups([*pictures, small])
    assert found[3] == found[1]
    assert len(set(found.tolist())) == 3
    assert difference_hash(pictures[0]).shape == (32,)


def test_folders_are_read_by_modality_and_names_of_one_source_are_joined(tmp_path: Path) -> None:
    for folder, source in (("cxr", "NIH"), ("cxr-sources", "nih"), ("ct-sources", "scans")):
        write(tmp_path / folder, [("normal", 40)], source)
    found = read_folders(tmp_path, Kinship({"NIH": "nih"}, []))
    assert {name: [one.source for one in rows] for name, rows in found.items()} == {
        "ct": ["scans"],
        "xray": ["nih", "nih"],
    }
    assert len(read_folders(tmp_path / "cxr", NONE)["xray"]) == 1
    with pytest.raises(ConfigError):
        read_folders(tmp_path / "cxr" / "nothing", NONE)


def test_the_recipe_names_pairs_that_work_both_ways() -> None:
    kinship = Kinship.read()
    records = [
        record("hannover", "covid19"),
        record("crd", "covid19"),
        record("crd", "normal"),
        record("nih", "normal"),
    ]
    assert kinship.left_out(records, "hannover").tolist() == [True, True, True, False]
    assert kinship.left_out(records, "nih").tolist() == [False, False, True, True]
    assert kinship.left_out(records, "crd").tolist() == [True, True, True, True]


def test_confident_and_wrong_is_wrong_without_review() -> None:
    share = np.array([0.9, 0.9, 0.6, 0.2])
    probabilities = np.stack([share, 1 - share], 1)
    cell = np.array(["a/normal", "a/normal", "a/normal", "b/covid19"])
    found = by_source(probabilities, np.array([1, 1, 1, 0]), cell, list("wxyz"), np.array([False, True, False, False]))
    assert found["cells"]["a/normal"]["called_covid19"] == 1
    assert found["cells"]["a/normal"]["confident_and_wrong"] == pytest.approx(2 / 3)
    assert found["worst"]["missed"] == {"cell": "b/covid19", "share": 1.0}
    assert found["worst"]["called_covid19_though_not"]["cell"] == "a/normal"
    assert found["pooled"]["auc"] == 0
    assert found["pooled"]["to_review"] == pytest.approx(1 / 4)


def write(folder: Path, rows: list[tuple[str, int]], source: str) -> None:
    """Pictures of noise around a brightness each, with their index."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(source))
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient", "source"])
        for number, (label, level) in enumerate(rows):
            picture = np.clip(rng.normal(level, 20, (80, 80)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
            writer.writerow([f"{number}.png", label, f"{source}{number}", source])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_the_command_prints_both_measures_as_json_and_keeps_what_the_backbone_made(
    bundle: Bundle, tmp_path: Path
) -> None:
    for source in SOURCES:
        write(tmp_path / "data" / f"cxr-{source}", [("covid19", 200), ("normal", 60)] * 4, source)
    command = typer.Typer()
    command.command()(sources.main)
    said = CliRunner().invoke(
        command,
        [
            *("--data", str(tmp_path / "data"), "--bundle", str(bundle.path), "--engine", "tensorflow"),
            *("--work", str(tmp_path / "work"), "--json", "--strength", "1"),
        ],
    )
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)["binary-xray"]
    assert found["left_out"]["pooled"]["images"] == 24
    assert found["left_out"]["pooled"]["auc"] > 0.9
    assert found["served"]["cells"].keys() == {f"{s}/{label}" for s in SOURCES for label in ("covid19", "normal")}
    assert found["one_source_alone"] == {}
    (kept,) = (tmp_path / "work").glob("*.npy")
    assert np.load(kept).shape[0] == 24


def test_records_of_one_source_keep_their_labels() -> None:
    one = replace(record("a", "effusion"), source="b")
    assert cells([one]).tolist() == ["b/effusion"]
