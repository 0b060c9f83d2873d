"""What stands in for a bundle when something else is measured or drilled: the queue, the pipeline, an outage.

No network, no file and no engine is behind it. Its answers are a known function of the pictures and mean nothing; the
bundle that they name is called `stand-in`, and its card says so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from shared.db.tables import Classifier
from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import Bundle, Card, Head
from shared.inference.engine import Pixels
from worker.classify.predictor import ImageRequest, Opinion, Prediction, RawOutputs, RejectedImage

NOTICE = "Stands in for a model when Thoraq itself is measured; the answers have nothing to do with the pictures."
CLASSES = {
    Classifier.BINARY: ("covid19", "not_covid19"),
    Classifier.ENSEMBLE: ("normal", "pneumonia", "covid19"),
}


def null() -> StandIn:
    """Answers at once, always the same, without a look at the pictures: nothing needs to be fetched or decoded."""
    return StandIn(_bundle("null"), needs_pixels=False, rate=0)


def stand_in(rate: float) -> StandIn:
    """Answers with how bright a picture is, after as long as a device that does `rate` images/s (0: at once)."""
    return StandIn(_bundle("brightness"), needs_pixels=True, rate=rate)


class StandIn:
    """Takes pictures for COVID-19 with the probability of their mean brightness (0 to 1); 0.5 without pixels.

    The ensemble's other two classes share the rest. It uses no CPU while it waits, refuses nothing and has no heatmaps.
    """

    lanes, max_batch = 1, None
    engine_name, engine_reason = "stand-in", NOTICE

    def __init__(self, bundle: Bundle, *, needs_pixels: bool, rate: float) -> None:
        self.bundle, self.needs_pixels = bundle, needs_pixels
        self._rate = rate

    def infer(
        self,
        images: Pixels,
        requests: Sequence[ImageRequest],
        *,
        beside: bool = False,  # noqa: ARG002 - Predictor's; it needs no cores
    ) -> RawOutputs:
        until = time.perf_counter() + (len(images) / self._rate if self._rate else 0)
        levels = images.mean(axis=(1, 2)) / 255 if self.needs_pixels else np.full(len(images), 0.5)
        answers = Answers([_predict(request, float(levels[request.row])) for request in requests])
        time.sleep(max(0.0, until - time.perf_counter()))
        return answers


@dataclass(frozen=True)
class Answers:
    """Predictions that were ready at once."""

    found: list[Prediction | RejectedImage]

    def predictions(self, *, heatmaps: bool) -> list[Prediction | RejectedImage]:  # noqa: ARG002 - there are none to leave out
        return self.found


def _predict(request: ImageRequest, level: float) -> Prediction:
    second = None if request.classifier is Classifier.BINARY else _opinion(Classifier.BINARY, level)
    return Prediction(request.modality, _opinion(request.classifier, level), second, None)


def _opinion(classifier: Classifier, level: float) -> Opinion:
    others = len(CLASSES[classifier]) - 1
    shares = [level if name == "covid19" else (1 - level) / others for name in CLASSES[classifier]]
    return Opinion(HEADS[classifier], np.array(shares, np.float32))


def _head(classifier: Classifier) -> Head:
    """Return what an opinion is of; its files do not exist, and nobody reads them."""
    return Head(
        classifier=classifier.value,
        modality="xray",
        classes=CLASSES[classifier],
        activation="softmax",
        temperature=1,
        backbones=(),
        architecture="none",
        weights="none",
        metrics={},
    )


HEADS = {classifier: _head(classifier) for classifier in Classifier}


def _bundle(version: str) -> Bundle:
    card = Card(
        name="stand-in",
        version=version,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        preprocessing=InputSpec(),
        backbones={},
        heads={},
        data=(),
        limits=(NOTICE,),
        notice=NOTICE,
        files={},
    )
    return Bundle(Path(), card, hashlib.sha256(card.model_dump_json().encode()).hexdigest())
