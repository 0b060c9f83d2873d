"""Fit the input gate to a backbone, and measure it on pictures and chest images that fitting did not see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from shared.errors import ConfigError
from shared.imaging.preprocess import InputSpec
from shared.inference import bundle
from shared.inference.gate import MODALITIES, Gate, Space, regions
from training.data.images import SEED, Warp, augment
from training.gate.outliers import SPOILED, Outlier, fitting, jigsaw, measuring

Images = NDArray[np.uint8]  # prepared, (N, S, S)
FeatureExtractor = Callable[[Images], NDArray[np.floating[Any]]]  # to (N, h, w, channels)
Arrays = dict[str, NDArray[np.floating[Any]]]

COMPONENTS = 128
STRENGTH = 0.001  # of the logistic regression; C in scikit-learn
# Chest images of the validation part, and augmented copies of them, that may end as something else.
REFUSED = 0.01
SPOILT = 200  # X-rays that are spoiled in each way
CHANGED = 100  # test images of each modality that are changed and spoiled in each way
RESAMPLES = 1000
CHUNK = 64  # images whose maps are held at once


def fit_gate(
    maps: FeatureExtractor, train: Mapping[str, Images], val: Mapping[str, Images], seed: int = SEED
) -> Arrays:
    """Return the arrays of a gate for the backbone behind `maps`; `train` and `val` hold chest images by modality.

    Components, distances and weights come from `train`, from pictures of other things and from spoiled X-rays;
    the threshold comes from `val`. Raises ConfigError when a modality or an installed package is missing.
    """
    if train.keys() != set(MODALITIES) or val.keys() != set(MODALITIES):
        raise ConfigError("the gate needs chest images of both modalities")
    rng = np.random.default_rng(seed)
    spec = InputSpec(size=train["xray"].shape[1])
    others = np.stack([*(outlier.image for outlier in fitting(spec, seed)), *spoil(train, rng)])
    probe = maps(others[:1])
    pools = grid(probe.shape[1], probe.shape[2])
    chest = [look(maps, pools, warped(train[modality], rng)) for modality in MODALITIES]
    space = fit_space(pools, chest)
    arrays = fit_weights(space, chest, look(maps, pools, others))
    gate = Gate.of("", {**vars(space), **arrays, "threshold": np.zeros(1)})
    held = [warped(val[modality], rng) for modality in MODALITIES]
    scores = np.concatenate([scored(gate, maps, part)[0] for part in held])
    return {**vars(space), **arrays, "threshold": np.quantile(scores, [REFUSED]).astype(np.float32)}


def measure_gate(
    maps: FeatureExtractor, arrays: Arrays, test: Mapping[str, tuple[Images, Sequence[str]]], seed: int = SEED
) -> dict[str, Any]:
    """How a gate does on pictures of other sources and on chest images (with their patients) that it never saw.

    Shares are of images rejected; intervals are 95 %, from a bootstrap of whole sources or whole patients.
    """
    gate = Gate.of("", arrays)
    spec = InputSpec(size=test["xray"][0].shape[1])
    found: dict[str, Any] = {"not_chest": judged_outliers(gate, maps, measuring(spec, seed))}
    refused, right, patients = [], [], []
    for number, modality in enumerate(MODALITIES):
        images, names = test[modality]
        scores, modalities = scored(gate, maps, images)
        refused.append(scores < 0)
        right.append((modalities == number)[scores >= 0])
        patients += [f"{modality} {name}" for name in names]
    found["chest"] = {**share(np.concatenate(refused), patients), "by_modality": {
        modality: float(part.mean()) for modality, part in zip(MODALITIES, refused, strict=True)}}  # fmt: skip
    found["modality_accuracy"] = float(np.concatenate(right).mean())
    rng = np.random.default_rng(seed)
    pixels = np.concatenate([rng.permutation(test[modality][0])[:CHANGED] for modality in MODALITIES])
    for name, changes in (("chest_changed", CHANGES), ("chest_spoiled", SPOILED)):
        found[name] = {
            change: float((scored(gate, maps, np.stack([function(image) for image in pixels]))[0] < 0).mean())
            for change, function in changes.items()
        }
    return found


def write_gate(out: Path, backbone: str, arrays: Arrays, metrics: Mapping[str, Any]) -> bundle.Gate:
    """Write gate.safetensors into a bundle's directory; returns the card's part."""
    # The components are nine tenths of the file, and were fitted in half precision.
    halves = {name: a.astype(np.float16 if name == "components" else np.float32) for name, a in arrays.items()}
    (out / "gate.safetensors").write_bytes(save({name: np.ascontiguousarray(a) for name, a in halves.items()}))
    return bundle.Gate(backbone=backbone, weights="gate.safetensors", metrics=dict(metrics))


def grid(height: int, width: int) -> NDArray[np.float32]:
    """Regions of a map (4, height x width): upper and lower part, middle, and both sides; each row sums to 1."""
    rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    masks = np.stack([y < -0.2, y > 0.2, np.maximum(abs(x), abs(y)) < 0.5, abs(x) > 0.5]).reshape(4, -1)
    return np.asarray(masks / masks.sum(1, keepdims=True), np.float32)


def fit_space(pools: NDArray[np.float32], chest: Sequence[NDArray[np.float32]]) -> Space:
    """Principal components of both modalities together, and each one's centre and spread among them."""
    both = np.concatenate(chest)
    mean, deviation = both.mean(0), both.std(0)
    # A channel that hardly ever fires says little; it is not to be blown up to the size of the others.
    scale = np.maximum(deviation, 0.1 * float(np.median(deviation)) + 1e-6)
    # Something has to be left over: the remainder is one of the coordinates.
    components = min(COMPONENTS, len(both) - 1, len(mean) // 2)
    axes = PCA(components, svd_solver="randomized", random_state=SEED).fit((both - mean) / scale).components_.T
    # Rounded to what is stored before anything else is fitted to it: so rounding costs nothing later.
    axes = axes.astype(np.float16).astype(np.float32)
    inside = [((part - mean) / scale) @ axes for part in chest]
    spreads = [LedoitWolf().fit(part) for part in inside]
    return Space(
        pools=pools,
        mean=mean,
        scale=scale,
        components=axes,
        centres=np.stack([spread.location_ for spread in spreads]).astype(np.float32),
        whiteners=np.stack([np.linalg.cholesky(spread.precision_) for spread in spreads]).astype(np.float32),
    )


def fit_weights(space: Space, chest: Sequence[NDArray[np.float32]], others: NDArray[np.float32]) -> Arrays:
    """Return the logistic regression over X-ray, CT slice and other, each as weighty as the others."""
    parts = [space.coordinates(part) for part in (*chest, others)]
    mean, deviation = (function(np.concatenate(parts[:2]), axis=0) for function in (np.mean, np.std))
    model = LogisticRegression(C=STRENGTH, max_iter=2000, class_weight="balanced")
    model.fit((np.concatenate(parts) - mean) / deviation, np.repeat([0, 1, 2], [len(part) for part in parts]))
    weights = model.coef_.T / deviation[:, np.newaxis]
    return {"weights": weights.astype(np.float32), "bias": (model.intercept_ - mean @ weights).astype(np.float32)}


def look(maps: FeatureExtractor, pools: NDArray[np.float32], images: Images) -> NDArray[np.float32]:
    """Compute what the gate's regions hold, by chunks of images: whole maps of all images would take gigabytes."""
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return np.concatenate([regions(maps(chunk), pools) for chunk in chunks])


def scored(gate: Gate, maps: FeatureExtractor, images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and modality numbers of images."""
    return gate.scored(look(maps, gate.space.pools, images))


def warped(images: Images, rng: np.random.Generator) -> Images:
    """Return the images and one augmented copy of each."""
    return np.concatenate([images, np.stack([augment(image, rng, Warp(), image.shape[0]) for image in images])])


def spoil(chest: Mapping[str, Images], rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """X-rays that no reader would accept as they are: negatives, turned ones, and jigsaws of them.

    They draw the border close around X-rays. CT slices are left out: turned or as negatives they are too much like
    slices that another window or another table shows, and good ones would be rejected with them.
    """
    images = rng.permutation(chest["xray"])[:SPOILT]
    turned = [function(image) for function in SPOILED.values() for image in images]
    return [*turned, *(jigsaw(image, rng) for image in images)]


def judged_outliers(gate: Gate, maps: FeatureExtractor, outliers: Sequence[Outlier]) -> dict[str, Any]:
    """Return the share rejected of pictures of other things, together and by kind."""
    refused = scored(gate, maps, np.stack([outlier.image for outlier in outliers]))[0] < 0
    kinds: dict[str, list[bool]] = defaultdict(list)
    for outlier, answer in zip(outliers, refused, strict=True):
        kinds[outlier.kind].append(bool(answer))
    by_kind = {kind: float(np.mean(answers)) for kind, answers in kinds.items()}
    mean = float(np.mean(list(by_kind.values())))
    return {**share(refused, [outlier.source for outlier in outliers]), "mean_of_kinds": mean, "by_kind": by_kind}


def share(answers: NDArray[np.bool_], groups: Sequence[str]) -> dict[str, Any]:
    """Return the share of true answers, with a 95 % bootstrap interval over groups, whose images are alike."""
    rng = np.random.default_rng(SEED)
    _, owner = np.unique(np.asarray(groups), return_inverse=True)
    hits, sizes = np.bincount(owner, answers), np.bincount(owner)
    drawn = rng.integers(len(sizes), size=(RESAMPLES, len(sizes)))
    shares = hits[drawn].sum(1) / sizes[drawn].sum(1)
    interval = [float(edge) for edge in np.percentile(shares, [2.5, 97.5])]
    return {"images": len(answers), "rejected": float(answers.mean()), "interval": interval}


def cropped(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Without a twelfth of it on each side."""
    side, edge = image.shape[0], image.shape[0] // 12
    return np.asarray(cv2.resize(image[edge:-edge, edge:-edge], (side, side)), np.uint8)


def framed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Smaller, in a black frame."""
    side, edge = image.shape[0], image.shape[0] // 14
    small = cv2.resize(image, (side - 2 * edge, side - 2 * edge), interpolation=cv2.INTER_AREA)
    return np.asarray(np.pad(small, edge), np.uint8)


def brighter(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brighter, with more contrast."""
    return np.asarray(np.clip(image * 1.15 + 25, 0, 255), np.uint8)


def darker(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Seven tenths as bright."""
    return np.asarray(image * 0.7, np.uint8)


def annotated(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With text, a side marker and an arrow."""
    side, marked = image.shape[0], image.copy()
    cv2.putText(marked, "R  PORTABLE 12:30", (side // 28, side // 12), cv2.FONT_HERSHEY_SIMPLEX, side / 448, 255, 1)
    cv2.putText(marked, "L", (side * 9 // 10, side // 7), cv2.FONT_HERSHEY_SIMPLEX, side / 280, 255, 2)
    cv2.arrowedLine(marked, (side // 4, side * 2 // 3), (side * 2 // 5, side // 2), 255, 2)
    return marked


def compressed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Through JPEG of quality 25."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 25])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)


def coarse(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """From 80 pixels a side."""
    return np.asarray(cv2.resize(cv2.resize(image, (80, 80), interpolation=cv2.INTER_AREA), image.shape), np.uint8)


def rotated(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Seven degrees, black corners."""
    side = image.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 7, 1)
    return np.asarray(cv2.warpAffine(image, turn, (side, side)), np.uint8)


# What happens to chest images on their way, and must not make the gate refuse them.
CHANGES: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    change.__name__: change for change in (cropped, framed, brighter, darker, annotated, compressed, coarse, rotated)
}
