"""A real bundle, though tiny, measured on pictures whose brightness decides what it says of them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from shared.errors import ConfigError
from shared.inference.bundle import Bundle
from shared.inference.engines import make_engine
from tests.support.bundles.brightness import tiny_bundle
from training import evaluate
from training.architectures import BINARY_CLASSES
from training.evaluation.answers import ask
from training.evaluation.parity import head_agreement
from training.tasks import class_numbers

BRIGHT, DARK, BLACK = 220, 60, 0
#: Label, brightness, patient. The binary head says COVID-19 of what is bright; the ensemble never says pneumonia.
XRAYS = (
    ("covid19", BRIGHT, "a"), ("covid19", BRIGHT, "a"), ("covid19", DARK, "b"), ("covid19", BRIGHT, "c"),
    ("normal", DARK, "d"), ("normal", DARK, "e"), ("normal", BRIGHT, "f"), ("normal", DARK, "g"),
    ("pneumonia", DARK, "h"), ("pneumonia", DARK, "i"),
    ("tuberculosis", BRIGHT, "j"), ("tuberculosis", BLACK, "k"),
)  # fmt: skip
SLICES = (("covid19", BRIGHT, "l"), ("non_covid19", DARK, "m"), ("non_covid19", BRIGHT, "n"))


def write_folder(folder: Path, rows: Sequence[tuple[str, int, str]]) -> Path:
    """Pictures of one brightness each, with their index."""
    folder.mkdir(parents=True)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient"])
        for number, (label, level, patient) in enumerate(rows):
            cv2.imwrite(str(folder / f"{number}.png"), np.full((80, 80), level, np.uint8))
            writer.writerow([f"{number}.png", label, patient])
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", gated=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    both = tmp_path_factory.mktemp("data")
    write_folder(both / "cxr", XRAYS)
    write_folder(both / "ct", SLICES)
    return both


@pytest.fixture(scope="module")
def measured(bundle: Bundle, data: Path) -> dict[str, Any]:
    return evaluate.evaluate(bundle, evaluate.read_sets(data, "all", None))


def test_every_head_is_measured_on_the_images_of_its_modality(measured: dict[str, Any]) -> None:
    assert measured.keys() == {"binary-xray", "ensemble-xray", "binary-ct", "gate"}
    assert measured["binary-xray"]["confusion"]["counts"] == [[3, 1], [2, 6]]
    assert measured["ensemble-xray"]["confusion"]["counts"] == [[3, 0, 1], [2, 0, 0], [1, 0, 3]]
    assert measured["binary-ct"]["confusion"]["counts"] == [[1, 0], [1, 1]]
    assert measured["binary-xray"]["scores"]["accuracy"] == pytest.approx(9 / 12)
    assert measured["binary-xray"]["patients"] == 11


def test_labels_that_a_head_does_not_know_are_skipped_and_named(measured: dict[str, Any]) -> None:
    assert measured["ensemble-xray"]["skipped"] == ["tuberculosis"]
    assert measured["ensemble-xray"]["images"] == 10
    # Another disease is not COVID-19.
    assert measured["binary-xray"]["skipped"] == []
    assert measured["binary-xray"]["images"] == 12
    assert measured["binary-ct"]["skipped"] == []


def test_a_binary_head_is_measured_by_source_and_label(measured: dict[str, Any]) -> None:
    found = measured["binary-xray"]["by_source"]
    assert found["cells"].keys() == {f"unnamed/{label}" for label, _, _ in XRAYS}
    assert found["cells"]["unnamed/tuberculosis"]["called_covid19"] == pytest.approx(1 / 2)
    assert found["worst"]["called_covid19_though_not"] == {"cell": "unnamed/tuberculosis", "share": 0.5}
    assert found["pooled"]["sensitivity"] == pytest.approx(3 / 4)
    assert "by_source" not in measured["ensemble-xray"]


@pytest.mark.parametrize(
    ("label", "number"),
    [("COVID-19", 0), ("Covid", 0), ("SARS-CoV-2", 0), ("effusion", 1), ("Non-COVID", 1), ("Healthy", 1), ("", -1)],
)
def test_labels_as_others_write_them(label: str, number: int) -> None:
    assert class_numbers([label], BINARY_CLASSES, any_label=True).tolist() == [number]


def test_training_takes_no_label_that_it_does_not_know() -> None:
    assert class_numbers(["effusion", "tuberculosis"], BINARY_CLASSES).tolist() == [-1, 1]


def test_no_figure_comes_without_its_interval(measured: dict[str, Any]) -> None:
    def check(found: Any) -> int:
        if not isinstance(found, dict):
            return 0
        spans = found.get("intervals", {})
        for name, (low, high) in spans.items():
            value = found["scores"][name] if "scores" in found else found[name]
            # Drawing can only raise the calibration error.
            assert (0 if name == "ece" else low) <= value + 1e-9, name
            assert value <= high + 1e-9, name
        return len(spans) + sum(check(part) for part in found.values())

    assert check(measured) > 60
    assert measured["binary-xray"]["scores"].keys() == measured["binary-xray"]["intervals"].keys()
    assert measured["gate"]["xray"]["intervals"].keys() == {"rejected", "other_modality"}


def test_the_gate_is_measured_by_modality_and_label(measured: dict[str, Any]) -> None:
    xray = measured["gate"]["xray"]
    assert xray["rejected"] == pytest.approx(1 / 12)
    assert xray["labels"]["tuberculosis"]["rejected"] == 0.5
    # It takes dark pictures for CT slices: six of the twelve, and of the three slices the two bright ones for X-rays.
    assert xray["other_modality"] == pytest.approx(6 / 12)
    assert measured["gate"]["ct"]["other_modality"] == pytest.approx(2 / 3)


def test_covid19_is_also_held_against_each_other_label(measured: dict[str, Any]) -> None:
    assert measured["binary-xray"]["against"]["normal"]["accuracy"] == pytest.approx(6 / 8)
    assert measured["binary-xray"]["against"]["pneumonia"]["accuracy"] == pytest.approx(5 / 6)
    assert "against" not in measured["binary-ct"]


def test_a_thin_margin_or_another_mind_of_the_binary_head_goes_to_review(bundle: Bundle, data: Path) -> None:
    answers = ask(bundle, evaluate.read_sets(data, "all", "xray"), make_engine("tensorflow", bundle))["xray"]
    head = bundle.heads["ensemble-xray"]
    assert not evaluate.to_review(head, answers).any()
    wide = head.model_copy(update={"review_margin": 0.995})
    assert evaluate.to_review(wide, answers).any()
    answers.probabilities["binary-xray"][0] = [0.1, 0.9]
    assert evaluate.to_review(head, answers).tolist() == [True] + [False] * 11
    assert not evaluate.to_review(bundle.heads["binary-xray"], answers).any()


def test_one_folder_is_of_the_modality_that_is_named(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hospital", SLICES)
    assert evaluate.labelled_folders(folder) == {"xray": folder}
    assert evaluate.labelled_folders(folder, "ct") == {"ct": folder}
    found = evaluate.evaluate(bundle, evaluate.read_sets(folder, "all", "ct"))
    assert found["binary-ct"]["images"] == 3


def test_a_folder_of_unknown_labels_alone_is_no_error(bundle: Bundle, tmp_path: Path) -> None:
    found = evaluate.evaluate(bundle, evaluate.read_sets(write_folder(tmp_path / "x", XRAYS[-2:]), "all", None))
    assert found["ensemble-xray"] == {"skipped": ["tuberculosis"]}
    assert found["gate"]["xray"]["images"] == 2


def test_without_a_gate_there_is_nothing_to_say_about_one(tmp_path: Path, data: Path) -> None:
    found = evaluate.evaluate(tiny_bundle(tmp_path / "open"), evaluate.read_sets(data, "all", "ct"))
    assert found.keys() == {"binary-ct"}


@pytest.fixture(scope="module")
def printed(bundle: Bundle, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the command prints with everything switched on, and where it wrote figures."""
    figures, said = tmp_path_factory.mktemp("figures") / "new", io.StringIO()
    with contextlib.redirect_stdout(said):
        evaluate.main(bundle=bundle.path, data=data, figures=figures, compare=True, as_json=True)
    return json.loads(said.getvalue()), figures


def test_the_command_prints_json_and_writes_figures(
    printed: tuple[dict[str, Any], Path], measured: dict[str, Any]
) -> None:
    found, figures = printed
    assert {name: part for name, part in found.items() if name != "parity"} == measured
    assert len(list(figures.glob("*.png"))) == 9


def test_every_engine_of_this_machine_is_held_to_float32_tensorflow(printed: tuple[dict[str, Any], Path]) -> None:
    found = printed[0]["parity"]
    assert found.keys() == {"binary-xray", "ensemble-xray", "binary-ct", "gate"}
    exact = found["binary-xray"]["openvino-float32"]
    assert (exact["images"], exact["same_label"], exact["accuracy_difference"]) == (12, 1, 0)
    assert exact["largest_difference"] < 1e-3
    assert exact["intervals"]["same_label"] == [1, 1]
    assert found["gate"]["openvino-float32"]["same_kind"] == 1
    assert "tensorflow" not in found["binary-xray"]


def test_an_engine_that_answers_otherwise_is_told_by_how_much(bundle: Bundle, data: Path) -> None:
    answers = ask(bundle, evaluate.read_sets(data, "all", "xray"), make_engine("tensorflow", bundle))["xray"]
    turned = {name: values.copy() for name, values in answers.probabilities.items()}
    # Of a COVID-19 image that was right, and of one with tuberculosis that was wrong.
    for row in (0, 10):
        turned["binary-xray"][row] = turned["binary-xray"][row, ::-1]
    found = head_agreement(bundle.heads["binary-xray"], answers, replace(answers, probabilities=turned))
    assert found["same_label"] == pytest.approx(10 / 12)
    assert found["accuracy_difference"] == pytest.approx(0)
    assert found["largest_difference"] > 0.9


def test_the_command_prints_tables(
    bundle: Bundle, data: Path, printed: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(bundle=bundle.path, data=data, modality="xray")
    evaluate.show_parity(printed[0]["parity"], Console(width=200))
    said = capsys.readouterr().out
    assert "skipped the labels it does not know: tuberculosis" in said
    assert "gate, xray: rejects 0.083" in said
    assert "openvino-float32" in said


def test_what_the_user_can_correct_is_said_in_one_line(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", "--bundle", str(bundle.path), "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        evaluate.run()
    assert end.value.code == 2
    assert "no index.csv" in capsys.readouterr().err


def test_images_that_no_classifier_is_for_are_an_error(tmp_path: Path, data: Path) -> None:
    whole = tiny_bundle(tmp_path / "xrays")
    heads = {name: head for name, head in whole.card.heads.items() if head.modality == "xray"}
    part = Bundle(whole.path, whole.card.model_copy(update={"heads": heads}), whole.sha256)
    with pytest.raises(ConfigError, match="no images"):
        evaluate.evaluate(part, evaluate.read_sets(data, "all", "ct"))
