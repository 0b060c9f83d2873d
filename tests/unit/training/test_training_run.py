"""The training command end to end on a handful of synthetic slices: a bundle comes out that verifies and evaluates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.inference.bundle import Bundle
from training import evaluate, train

SHIPPED = Path("models/thoraq-4")


def write_slices(folder: Path) -> Path:
    """Twelve dark and twelve bright noise images of twelve patients, with an index."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient"])
        for row in range(24):
            label = ("covid19", "non_covid19")[row % 2]
            grey = rng.normal(60 if label == "covid19" else 180, 20, (64, 64))
            cv2.imwrite(str(folder / f"{row}.png"), np.clip(grey, 0, 255).astype(np.uint8))
            writer.writerow([f"{row}.png", label, f"p{row // 2}"])
    return folder


# No training of the backbone, begun as it is: compiling its step alone takes minutes.
RECIPE = """
version = "1"
distil_steps = 2000
distil_steps_begun = 0
distil_vgg_epochs = 0
views = 1
train_upper_block = false
may_be_passed_on = ["unnamed"]
limits = ["Made by a test."]
sources = {}
"""


def test_training_makes_a_bundle_that_verifies_and_evaluates_to_its_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_slices(tmp_path / "ct").parent
    out = tmp_path / "small"
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    train.main(
        data=data,
        out=out,
        recipe=recipe,
        work=tmp_path / "work",
        begin=SHIPPED / "densenet201.safetensors",
        memory=False,
    )
    bundle = Bundle.open(out)
    assert list(bundle.heads) == ["binary-ct"]
    assert bundle.card.backbones["densenet201"].origin == "begun with the weights of thoraq-4."
    assert bundle.card.files["densenet201.safetensors"] == Bundle.open(SHIPPED).card.files["densenet201.safetensors"]
    assert bundle.card.data[0].images["train"].keys() == {"covid19", "non_covid19"}
    assert "research only" in (out / "README.md").read_text()
    capsys.readouterr()
    evaluate.main(bundle=out, data=data, part="test", as_json=True)
    card = bundle.heads["binary-ct"].metrics
    assert json.loads(capsys.readouterr().out)["binary-ct"] == {k: v for k, v in card.items() if k != "engines"}
    assert card["engines"]["openvino-int8"]["images"] == 24
