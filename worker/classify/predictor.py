"""A loaded bundle: prepared pixels to what gate and heads say of each image, and where the network looked.

Numbers only; worker/classify/aggregate.py makes answers of them. Each backbone sees an image once, however many
classifiers were asked about it, and VGG16 only X-rays that the ensemble was asked about: the gate has spoken by then.
An inference needs the engine; its predictions do not, so that the heads run while the engine has the next images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.bundle_registry import check_heads
from shared.db.tables import Classifier, Modality
from shared.inference.bundle import Bundle, Head
from shared.inference.engine import Engine, FeatureMaps, Pixels
from shared.inference.gate import Gate, Verdict
from shared.inference.heads import HeadNetwork
from shared.jobs.schemas import Rejection

Grid = NDArray[np.uint8]
#: A head's name and an image's row.
Key = tuple[str, int]
NO_CT_ENSEMBLE = "The ensemble classifies X-rays only, and this is a CT slice; ask the binary classifier."


@dataclass(frozen=True)
class ImageRequest:
    """A classifier for one image: its row among the pixels, and the modality that it was sent as."""

    row: int
    classifier: Classifier
    modality: Modality


@dataclass(frozen=True)
class Opinion:
    """A head's calibrated probabilities of its classes, (classes,) float32, for one image."""

    head: Head
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """An image that was answered, as what it is; `second`: what the binary head says where the ensemble was asked.

    `heatmap`, if asked for, is the grid (h, w) of where the network looked for the likeliest class, 255 the most.
    """

    modality: Modality
    opinion: Opinion
    second: Opinion | None
    heatmap: Grid | None


@dataclass(frozen=True)
class RejectedImage:
    """An image that was not answered; its `modality` is None when it is no chest image."""

    reason: Rejection
    detail: str
    modality: Modality | None


@dataclass(frozen=True)
class _Plan:
    """What a request comes to once it is known what the image is."""

    modality: Modality
    asked: Key
    second: Key | None


class RawOutputs(Protocol):
    """What the engine made of the images of an inference."""

    def predictions(self, *, heatmaps: bool) -> list[Prediction | RejectedImage]:
        """Return what the asked classifiers say, in the order of the requests. Needs no engine; once, in any thread."""


class Predictor(Protocol):
    """Whatever answers for a bundle."""

    @property
    def bundle(self) -> Bundle:
        """What its answers name."""

    @property
    def engine_name(self) -> str:
        """What they are made with."""

    @property
    def engine_reason(self) -> str:
        """Why other engines that were tried do not answer."""

    @property
    def needs_pixels(self) -> bool:
        """Whether images are to be fetched and decoded for it; otherwise they may be of any shape."""

    @property
    def lanes(self) -> int:
        """How many inferences may be under way at once, each in a thread; with fewer, the device idles now and then."""

    @property
    def max_batch(self) -> int | None:
        """How many images there is memory for at once, in all lanes together; None: as many as are wanted."""

    def infer(self, images: Pixels, requests: Sequence[ImageRequest], *, beside: bool = False) -> RawOutputs:
        """Run prepared images (N, size, size) of uint8 through the engine.

        `beside`: another inference is under way or comes at once.
        Raises EngineError when the device fails, ValueError for images of another shape.
        """


class Model:
    """A bundle on an engine."""

    needs_pixels = True

    def __init__(self, bundle: Bundle, engine: Engine, engine_reason: str = "") -> None:
        """Raise ModelError when a file is unusable, or a head is missing that jobs may ask for."""
        check_heads(bundle)
        self.bundle, self.engine, self.engine_reason = bundle, engine, engine_reason
        self._heads = {name: HeadNetwork.load(bundle, head) for name, head in bundle.heads.items()}
        self._gate = Gate.load(bundle) if bundle.card.gate else None

    @property
    def engine_name(self) -> str:
        """As settings call it."""
        return self.engine.name

    @property
    def lanes(self) -> int:
        """As many as the engine has."""
        return self.engine.lanes

    @property
    def max_batch(self) -> int:
        """As many as the engine has memory for."""
        return self.engine.max_batch

    def infer(self, images: Pixels, requests: Sequence[ImageRequest], *, beside: bool = False) -> RawOutputs:
        """As `Predictor` says. Without a gate in the bundle every image is what it was sent as."""
        maps = _BackboneOutputs(self.engine, images, beside=beside)
        verdicts = self._judge(maps, len(images))
        plans = [self._plan(request, verdicts[request.row]) for request in requests]
        maps.run(self._wanted(_heard(plans)))
        return _FeatureMapOutputs(self.bundle, self._heads, maps, plans)

    def _judge(self, maps: _BackboneOutputs, count: int) -> Sequence[Verdict | None]:
        if self._gate is None or self.bundle.card.gate is None:
            return [None] * count
        backbone, rows = self.bundle.card.gate.backbone, range(count)
        maps.run({backbone: set(rows)})
        return self._gate.judge(maps.of(backbone, rows))

    def _plan(self, request: ImageRequest, verdict: Verdict | None) -> _Plan | RejectedImage:
        if verdict is not None and verdict.reason is not None:
            return RejectedImage(Rejection.NOT_A_CHEST_IMAGE, verdict.reason, None)
        modality = request.modality if verdict is None else Modality(verdict.kind)
        if request.classifier is Classifier.ENSEMBLE and modality is Modality.CT:
            return RejectedImage(Rejection.ENSEMBLE_NEEDS_XRAY, NO_CT_ENSEMBLE, modality)
        asked, binary = (
            (self.bundle.head_for(c, modality).name, request.row) for c in (request.classifier, Classifier.BINARY)
        )
        return _Plan(modality, asked, None if asked == binary else binary)

    def _wanted(self, heads: Iterable[Key]) -> dict[str, set[int]]:
        """Return the rows that each backbone has to see."""
        rows: dict[str, set[int]] = defaultdict(set)
        for name, row in heads:
            for backbone in self.bundle.heads[name].backbones:
                rows[backbone].add(row)
        return rows


@dataclass(frozen=True)
class _FeatureMapOutputs:
    """The backbones' maps of an inference, and what they are there for."""

    bundle: Bundle
    heads: Mapping[str, HeadNetwork]
    maps: _BackboneOutputs
    plans: Sequence[_Plan | RejectedImage]

    def predictions(self, *, heatmaps: bool) -> list[Prediction | RejectedImage]:
        opinions = self._opinions()
        grids = self._grids(opinions) if heatmaps else {}
        return [plan if isinstance(plan, RejectedImage) else _combined(plan, opinions, grids) for plan in self.plans]

    def _opinions(self) -> dict[Key, Opinion]:
        """Each head runs once, for all of its rows."""
        opinions: dict[Key, Opinion] = {}
        for name, rows in _by_head(_heard(self.plans)).items():
            head = self.bundle.heads[name]
            found = self.heads[name].predict(self.maps.of_all(head.backbones, rows))
            opinions |= {(name, row): Opinion(head, values) for row, values in zip(rows, found, strict=True)}
        return opinions

    def _grids(self, opinions: Mapping[Key, Opinion]) -> dict[Key, Grid]:
        """Heatmaps of what each image was taken for."""
        grids: dict[Key, Grid] = {}
        asked = {plan.asked for plan in self.plans if isinstance(plan, _Plan)}
        for name, rows in _by_head(asked).items():
            classes = np.array([opinions[name, row].probabilities.argmax() for row in rows])
            found = self.heads[name].explain(self.maps.of_all(self.bundle.heads[name].backbones, rows), classes)
            levels = np.rint(found * 255).astype(np.uint8)
            grids |= {(name, row): grid for row, grid in zip(rows, levels, strict=True)}
        return grids


class _BackboneOutputs:
    """The maps of one inference: no backbone sees an image twice."""

    def __init__(self, engine: Engine, images: Pixels, *, beside: bool) -> None:
        self._engine, self._images, self._beside = engine, images, beside
        self._found: dict[str, FeatureMaps] = {}
        self._places: dict[str, dict[int, int]] = {}

    def run(self, wanted: Mapping[str, set[int]]) -> None:
        """Run each backbone on these rows, in one go: rows that come later must have been among the first."""
        together: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for backbone, rows in wanted.items():
            if backbone not in self._found:
                together[tuple(sorted(rows))].append(backbone)
        for order, backbones in together.items():
            whole = len(order) == len(self._images)
            images = self._images if whole else self._images[list(order)]
            self._found |= self._engine.feature_maps(images, backbones, beside=self._beside)
            self._places |= {backbone: {row: place for place, row in enumerate(order)} for backbone in backbones}

    def of(self, backbone: str, rows: Sequence[int]) -> FeatureMaps:
        """Return the backbone's maps of these rows (in rising order), copied only if they are not all."""
        found, places = self._found[backbone], self._places[backbone]
        return found if len(rows) == len(found) else found[[places[row] for row in rows]]

    def of_all(self, backbones: Iterable[str], rows: Sequence[int]) -> dict[str, FeatureMaps]:
        """Return the same of several backbones."""
        return {backbone: self.of(backbone, rows) for backbone in backbones}


def _heard(plans: Iterable[_Plan | RejectedImage]) -> set[Key]:
    """Return the heads that have to speak, for which rows."""
    made = [plan for plan in plans if isinstance(plan, _Plan)]
    return {plan.asked for plan in made} | {plan.second for plan in made if plan.second is not None}


def _by_head(keys: Iterable[Key]) -> dict[str, list[int]]:
    """Rows by head, in rising order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for name, row in sorted(keys):
        rows[name].append(row)
    return rows


def _combined(plan: _Plan, opinions: Mapping[Key, Opinion], grids: Mapping[Key, Grid]) -> Prediction:
    second = None if plan.second is None else opinions[plan.second]
    return Prediction(plan.modality, opinions[plan.asked], second, grids.get(plan.asked))
