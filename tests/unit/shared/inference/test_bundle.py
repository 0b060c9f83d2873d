"""A bundle is what its card says, or it is refused by name."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from shared.errors import ModelError
from shared.inference.bundle import Bundle

HEAD = {
    "classifier": "binary",
    "modality": "xray",
    "classes": ["covid19", "not_covid19"],
    "activation": "sigmoid",
    "temperature": 1.5,
    "trunks": ["backbone"],
    "architecture": "head.json",
    "weights": "head.safetensors",
    "metrics": {"scores": {"accuracy": 0.5}},
}
FILES = {
    "backbone.json": b'{"config": {}}',
    "backbone.safetensors": save({"conv/kernel": np.arange(6, dtype=np.float16).reshape(2, 3)}),
    "head.json": b'{"config": {}}',
    "head.safetensors": save({"dense/kernel": np.ones((2, 2), np.float16)}),
}


def write_bundle(path: Path, change: Callable[[dict[str, Any]], object] = lambda card: card) -> Path:
    path.mkdir()
    for name, data in FILES.items():
        (path / name).write_bytes(data)
    card = {
        "name": "small",
        "version": "1",
        "created": "2026-01-01T00:00:00Z",
        "preprocessing": {"size": 224, "channels": 3, "interpolation": "area", "version": "1"},
        "trunks": {
            "backbone": {"architecture": "backbone.json", "weights": "backbone.safetensors", "origin": "a test"}
        },
        "heads": {"binary-xray": dict(HEAD)},
        "data": [],
        "limits": [],
        "notice": "research only",
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()},
    }
    change(card)
    (path / "card.json").write_text(json.dumps(card))
    return path


def test_a_whole_bundle_opens_and_is_named_by_the_hash_of_its_card(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "small")
    bundle = Bundle.open(path)
    assert (bundle.name, bundle.version, bundle.input.size) == ("small", "1", 224)
    assert bundle.sha256 == hashlib.sha256((path / "card.json").read_bytes()).hexdigest()
    assert bundle.head_for("binary", "xray").classes == ("covid19", "not_covid19")
    np.testing.assert_array_equal(bundle.load_weights("backbone.safetensors")["conv/kernel"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_flipped_bit_in_any_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = write_bundle(tmp_path / "small") / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match=rf"^{name}: its SHA-256"):
        Bundle.open(file.parent)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "small")
    (path / "head.safetensors").unlink()
    with pytest.raises(ModelError, match=r"^head\.safetensors: cannot be read"):
        Bundle.open(path)


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^card\.json: cannot be read"):
        Bundle.open(tmp_path / "nowhere")


def test_an_unlisted_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "small")
    (path / "more.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"^more\.safetensors: not listed"):
        Bundle.open(path)


def test_the_readme_may_be_corrected(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "small")
    (path / "README.md").write_text("for people")
    assert Bundle.open(path).sha256


def test_without_verification_the_card_alone_is_read_and_damage_still_never_loads(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "small")
    (path / "backbone.safetensors").write_bytes(b"other weights")
    bundle = Bundle.open(path, verify=False)
    assert bundle.head_for("binary", "xray").metrics["scores"]["accuracy"] == 0.5
    with pytest.raises(ModelError, match=r"^backbone\.safetensors: its SHA-256"):
        bundle.load_weights("backbone.safetensors")


def test_files_outside_the_card_cannot_be_read_through_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    bundle = Bundle.open(write_bundle(tmp_path / "small"))
    with pytest.raises(ModelError, match="not listed"):
        bundle.read("../secret")


def test_a_combination_that_the_bundle_lacks_is_named(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "small"))
    with pytest.raises(ModelError, match="no ensemble classifier for ct"):
        bundle.head_for("ensemble", "ct")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("notice"), "notice"),
        (lambda card: card.update(surprise=1), "surprise"),
        (lambda card: card["files"].update({"../outside": "00"}), "own directory"),
        (lambda card: card["heads"]["binary-xray"].update(weights="/etc/passwd"), "own directory"),
        (
            lambda card: card["heads"]["binary-xray"].update(trunks=["vgg16"]),
            "backbones that the bundle lacks: vgg16",
        ),
        (lambda card: card["heads"].update({"binary-ct": card["heads"].pop("binary-xray")}), "called binary-xray"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = write_bundle(tmp_path / "small", change)
    with pytest.raises(ModelError, match=message):
        Bundle.open(path)


def test_bytes_that_are_no_safetensors_are_refused_even_when_the_card_pins_them(tmp_path: Path) -> None:
    junk = b"not weights"
    path = write_bundle(
        tmp_path / "small",
        lambda card: card["files"].update({"backbone.safetensors": hashlib.sha256(junk).hexdigest()}),
    )
    (path / "backbone.safetensors").write_bytes(junk)
    with pytest.raises(ModelError, match="not a safetensors file"):
        Bundle.open(path).load_weights("backbone.safetensors")


def test_reading_bundles_needs_no_tensorflow() -> None:
    code = "import sys, shared.inference.bundle; sys.exit(bool({'tensorflow', 'keras'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
