"""What stands in for a model: its answers are known, and its bundle says that it is none."""

from __future__ import annotations

import numpy as np
import pytest

from shared.db.tables import Classifier, Modality
from shared.inference.bundle import Card
from worker.classify.fake_predictor import StandIn, null, stand_in
from worker.classify.predictor import ImageRequest, Prediction

IMAGES = np.stack([np.full((4, 4), level, np.uint8) for level in (0, 51, 255)])


def read(predictor: StandIn, *requests: ImageRequest) -> list[Prediction]:
    """Predictions, none of which is a rejection."""
    found = predictor.infer(IMAGES, requests).predictions(heatmaps=True)
    return [prediction for prediction in found if isinstance(prediction, Prediction)]


def test_it_calls_bright_pictures_covid19() -> None:
    black, dark, white = read(stand_in(0), *(ImageRequest(row, Classifier.BINARY, Modality.CT) for row in range(3)))
    assert [prediction.opinion.probabilities.tolist() for prediction in (black, white)] == [[0, 1], [1, 0]]
    assert dark.opinion.probabilities.tolist() == pytest.approx([0.2, 0.8])
    assert dark.opinion.head.classes == ("covid19", "not_covid19")
    assert (dark.modality, dark.second, dark.heatmap) == (Modality.CT, None, None)


def test_the_ensemble_shares_the_rest_and_has_a_second_opinion() -> None:
    (dark,) = read(stand_in(0), ImageRequest(1, Classifier.ENSEMBLE, Modality.XRAY))
    assert dark.opinion.head.classes == ("normal", "pneumonia", "covid19")
    assert dark.opinion.probabilities.tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert dark.second is not None
    assert dark.second.probabilities.tolist() == pytest.approx([0.2, 0.8])


def test_null_says_the_same_of_everything_and_asks_for_no_pixels() -> None:
    predictor = null()
    assert not predictor.needs_pixels
    found = read(predictor, *(ImageRequest(row, Classifier.BINARY, Modality.XRAY) for row in range(3)))
    assert [prediction.opinion.probabilities.tolist() for prediction in found] == [[0.5, 0.5]] * 3


def test_a_device_that_takes_its_time_says_the_same() -> None:
    requests = [ImageRequest(row, Classifier.BINARY, Modality.XRAY) for row in range(3)]
    slow, quick = read(stand_in(1000), *requests), read(stand_in(0), *requests)
    assert [r.opinion.probabilities.tolist() for r in slow] == [r.opinion.probabilities.tolist() for r in quick]


def test_their_bundles_are_called_stand_in_are_two_and_stay_the_same() -> None:
    bundles = [stand_in(500).bundle, null().bundle]
    assert {bundle.name for bundle in bundles} == {"stand-in"}
    assert len({bundle.sha256 for bundle in bundles}) == 2
    assert stand_in(0).bundle.sha256 == bundles[0].sha256
    for bundle in bundles:
        assert Card.model_validate(bundle.card.model_dump(mode="json")) == bundle.card
        assert "nothing to do with the pictures" in bundle.card.notice or bundle.version == "brightness"
