"""The gate, fitted for real to a backbone and to chest images that are small enough for a unit test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from shared.errors import ConfigError, ModelError
from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import CARD, Backbone, Bundle, Card
from shared.inference.gate import REASON, Gate, regions
from tests.support.bundles.gate import SIDE, chest, maps
from training.gate.fit import Arrays, fit_gate, grid, measure_gate, share, write_gate
from training.gate.outliers import measuring

TRAIN = {modality: chest(modality, 60, seed=1) for modality in ("xray", "ct")}
VAL = {modality: chest(modality, 50, seed=2) for modality in ("xray", "ct")}
TEST = {modality: chest(modality, 50, seed=3) for modality in ("xray", "ct")}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return fit_gate(maps, TRAIN, VAL)


@pytest.fixture(scope="module")
def gate(arrays: Arrays) -> Gate:
    return Gate.of("net", arrays)


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    """Pictures that are no chest images, of kinds that fitting did not see."""
    return [outlier.image for outlier in measuring(InputSpec(size=SIDE))]


def bundle_with(path: Path, arrays: Arrays | None, change: Callable[[Path], object] = lambda file: file) -> Bundle:
    """A bundle whose backbone is only named; with arrays, it has a gate, whose file `change` may rewrite."""
    files = {"net.json": b"{}", "net.safetensors": b""}
    for name, data in files.items():
        (path / name).write_bytes(data)
    part = None if arrays is None else write_gate(path, "net", arrays, {})
    if part is not None:
        change(path / part.weights)
    card = Card(
        name="gated",
        version="1",
        created="2026-01-01T00:00:00Z",
        preprocessing=InputSpec(size=SIDE),
        backbones={"net": Backbone(architecture="net.json", weights="net.safetensors", origin="a test")},
        heads={},
        gate=part,
        data=(),
        limits=(),
        notice="research only",
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()},
    )
    (path / CARD).write_text(card.model_dump_json())
    return Bundle.open(path)


@pytest.mark.parametrize("modality", ["xray", "ct"])
def test_unseen_chest_images_pass_as_what_they_are(gate: Gate, modality: str) -> None:
    verdicts = gate.judge(maps(TEST[modality]))
    assert sum(verdict.kind == modality for verdict in verdicts) >= 47
    assert all(verdict.kind in {modality, "other"} for verdict in verdicts)
    assert all(verdict.reason is None and verdict.score >= 0 for verdict in verdicts if verdict.kind != "other")


def test_pictures_of_other_kinds_than_those_fitted_are_rejected_with_a_reason(
    gate: Gate, pictures: list[NDArray[np.uint8]]
) -> None:
    others = [verdict for verdict in gate.judge(maps(np.stack(pictures))) if verdict.kind == "other"]
    assert len(others) >= 0.95 * len(pictures)
    assert all(verdict.reason == REASON and verdict.score < 0 for verdict in others)


def test_a_blank_picture_and_an_empty_map_are_rejected(gate: Gate) -> None:
    blank = maps(np.stack([np.full((SIDE, SIDE), level, np.uint8) for level in (0, 128, 255)]))
    verdicts = gate.judge(np.concatenate([blank, np.zeros_like(blank[:1])]))
    assert [verdict.kind for verdict in verdicts] == ["other"] * 4
    assert np.isfinite([verdict.score for verdict in verdicts]).all()


def test_a_verdict_does_not_depend_on_the_batch_or_on_the_maps_precision(gate: Gate) -> None:
    found = maps(np.concatenate([TEST["xray"][:4], TEST["ct"][:4]]))
    scores = [verdict.score for verdict in gate.judge(found)]
    alone = [gate.judge(found[row : row + 1])[0].score for row in range(len(found))]
    half = [verdict.score for verdict in gate.judge(found.astype(np.float16))]
    np.testing.assert_allclose(alone, scores, atol=1e-3)
    np.testing.assert_allclose(half, scores, atol=0.3)
    assert np.ptp(scores) > 0.5
    assert gate.judge(found[:0]) == []


def test_the_score_is_what_the_arrays_say_in_plain_arithmetic(arrays: Arrays, gate: Gate) -> None:
    """The same in float64, one image and one step at a time."""
    found = maps(TEST["ct"][:1])
    a = {name: np.asarray(values, np.float64) for name, values in arrays.items()}
    means = np.array([[(found[0, :, :, c].ravel() * pool).sum() for c in range(found.shape[3])] for pool in a["pools"]])
    roots = np.sqrt(means.ravel()) / np.sqrt(means.sum())
    spread = (roots - a["mean"]) / a["scale"]
    inside = spread @ a["components"]
    gaps = [inside - centre for centre in a["centres"]]
    away = [np.log(gap @ white @ white.T @ gap) for gap, white in zip(gaps, a["whiteners"], strict=True)]
    rest = np.log((spread**2).sum() - (inside**2).sum())
    logits = np.array([*inside, *away, min(away), rest]) @ a["weights"] + a["bias"]
    expected = max(logits[:2]) - logits[2] - a["threshold"][0]
    assert gate.judge(found)[0].score == pytest.approx(expected, abs=1e-2)


def test_regions_are_weighted_means_as_roots_of_length_one() -> None:
    pools = np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 1]], np.float32)
    row = np.array([[4, 0], [0, 16], [9, 9], [1, 4]], np.float32).reshape(1, 2, 2, 2)
    roots = np.sqrt([2, 8, 1, 4])
    np.testing.assert_allclose(regions(row, pools), [roots / np.linalg.norm(roots)], rtol=1e-6)
    np.testing.assert_allclose(regions(7 * row, pools), regions(row, pools), rtol=1e-6)


@pytest.mark.parametrize("shape", [(7, 7), (9, 5)])
def test_each_region_covers_its_part_of_the_map_evenly(shape: tuple[int, int]) -> None:
    pools = grid(*shape)
    np.testing.assert_allclose(pools.sum(1), 1, rtol=1e-6)
    upper, lower, middle, sides = pools.reshape(4, *shape)
    np.testing.assert_allclose(upper, lower[::-1])
    assert upper[0].all()
    assert not upper[-1].any()
    assert middle[shape[0] // 2, shape[1] // 2]
    assert not (middle * sides).any()


def test_a_gate_judges_the_same_after_a_bundle_carried_it(tmp_path: Path, arrays: Arrays, gate: Gate) -> None:
    loaded = Gate.load(bundle_with(tmp_path, arrays))
    found = maps(TEST["xray"])
    assert loaded.backbone == "net"
    np.testing.assert_allclose(
        [verdict.score for verdict in loaded.judge(found)], [verdict.score for verdict in gate.judge(found)], atol=1e-3
    )


def test_a_bundle_without_a_gate_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gated has no gate"):
        Gate.load(bundle_with(tmp_path, None))


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda arrays: arrays.pop(name)


def cut(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda arrays: arrays.update({name: np.ascontiguousarray(arrays[name][:-1])})


@pytest.mark.parametrize(
    "damage",
    [
        without("bias"),
        without("components"),
        cut("components"),
        cut("weights"),
        cut("centres"),
        cut("threshold"),
        cut("scale"),
    ],
)
def test_arrays_that_make_no_gate_are_refused_when_loading(
    tmp_path: Path, arrays: Arrays, damage: Callable[[dict[str, Any]], object]
) -> None:
    def rewrite(file: Path) -> None:
        stored = load(file.read_bytes())
        damage(stored)
        file.write_bytes(save(stored))

    with pytest.raises(ModelError, match=r"^gate\.safetensors: not the arrays of a gate"):
        Gate.load(bundle_with(tmp_path, arrays, rewrite))


def test_maps_of_another_backbone_are_refused(gate: Gate) -> None:
    found = maps(TEST["xray"][:1])
    for wrong in (found[..., :-1], found[:, :-1], found[0]):
        with pytest.raises(ValueError, match="takes maps of net"):
            gate.judge(wrong)


def test_fitting_twice_gives_the_same_gate(arrays: Arrays) -> None:
    again = fit_gate(maps, TRAIN, VAL)
    assert again.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(again[name], values)


def test_a_gate_needs_both_modalities() -> None:
    with pytest.raises(ConfigError, match="both modalities"):
        fit_gate(maps, {"xray": TRAIN["xray"]}, {"xray": VAL["xray"]})


def test_measures_agree_with_the_verdicts_and_name_what_was_measured(arrays: Arrays, gate: Gate) -> None:
    patients = [str(number // 2) for number in range(50)]
    found = measure_gate(maps, arrays, {modality: (images, patients) for modality, images in TEST.items()})
    refused = {m: np.mean([v.kind == "other" for v in gate.judge(maps(images))]) for m, images in TEST.items()}
    assert found["chest"]["by_modality"] == pytest.approx(refused)
    assert found["chest"]["rejected"] == pytest.approx(np.mean(list(refused.values())))
    assert found["modality_accuracy"] == 1
    assert found["not_chest"]["interval"][0] <= found["not_chest"]["rejected"] <= found["not_chest"]["interval"][1]
    assert found["not_chest"]["by_kind"]["drawn screenshot"] > 0.9
    assert np.mean(list(found["chest_spoiled"].values())) > np.mean(list(found["chest_changed"].values()))


def test_an_interval_is_as_wide_as_its_groups_are_few() -> None:
    answers = np.array([True, False] * 50)
    by_image = share(answers, [str(number) for number in range(100)])
    by_half = share(answers, ["first" if hit else "second" for hit in answers])
    assert by_image["rejected"] == by_half["rejected"] == 0.5
    assert 0.35 < by_image["interval"][0] < by_image["interval"][1] < 0.65
    assert by_half["interval"] == [0, 1]
