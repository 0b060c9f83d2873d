"""The engines' bench on a tiny bundle: which figures it keeps, and that they are compared within a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.engines import BATCH, PREDICT, conclusions, main
from tests.support.bundles.brightness import tiny_bundle


def test_every_engine_and_every_claim_gets_its_figures(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text('{"systems": "stay"}')
    bundle = tiny_bundle(tmp_path / "tiny")
    main(bundle.path, rounds=1, out=results)
    kept = json.loads(results.read_text(encoding="utf-8"))
    assert kept["systems"] == "stay"
    found = kept["engines"]
    # The tiny bundle has no reference answers, so TensorFlow serves it; the others are measured all the same.
    assert found["default"] == "tensorflow"
    assert found["bundle"] == {"name": "tiny", "sha256": bundle.sha256}
    assert {f"{name}, batch {BATCH}" for name in ("openvino-float32", "tensorflow")} <= found[
        "images_per_second"
    ].keys()
    assert all(row["median"] > 0 for row in found["images_per_second"].values())
    assert found["ratios"]["default engine to TensorFlow float32"] == {"median": 1, "lowest": 1, "highest": 1}


def test_claims_are_compared_within_each_round() -> None:
    """The machine was half as fast in the second round; the ratios do not care."""
    rates = {f"fast, batch {BATCH}": [80.0, 40.0], f"tensorflow, batch {BATCH}": [20.0, 10.0], PREDICT: [5.0, 2.5]}
    seconds = {
        "binary alone": [1.0, 2.0],
        "ensemble alone": [2.0, 4.0],
        "both classifiers": [2.2, 4.4],
        "binary heatmaps": [0.1, 0.2],
        "ensemble heatmaps": [0.1, 0.2],
    }
    found = conclusions("fast", seconds, rates)
    medians = {name: value.median for name, value in found.items()}
    assert medians == pytest.approx(
        {
            "default engine to TensorFlow float32": 4,
            "default engine to keras predict one by one": 16,
            "seconds of both classifiers to the ensemble's": 1.1,
            "seconds of heatmaps to the binary classifier's": 0.1,
            "seconds of heatmaps to the ensemble's": 0.05,
        }
    )
    assert all(value.lowest == pytest.approx(value.highest) for value in found.values())
