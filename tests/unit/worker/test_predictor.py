"""A loaded bundle on a real engine: what it reads, and how often each backbone is run for it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.db.tables import Classifier, Modality
from shared.inference.gate import REASON
from shared.jobs.schemas import Rejection
from tests.support.bundles.brightness import BLACK, CT_GREY, DENSENET, VGG, XRAY_GREY, Watched, tiny_model
from tests.support.files.images import grey
from worker.classify.predictor import ImageRequest, Model, Prediction, RejectedImage

BINARY, ENSEMBLE = Classifier.BINARY, Classifier.ENSEMBLE
XRAY, CT = Modality.XRAY, Modality.CT
IMAGES = np.stack([grey(level) for level in (20, 90, 160, 250, 60, 200)])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def model(loaded: Model) -> Model:
    """The model, whose engine has been shown nothing yet."""
    watched(loaded).shown.clear()
    return loaded


def watched(model: Model) -> Watched:
    assert isinstance(model.engine, Watched)
    return model.engine


def keras_says(model: Model, head: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The same from the bundle's Keras networks."""
    from shared.inference.keras_networks import rebuild

    card = model.bundle.card
    pixels = np.repeat(images[..., np.newaxis], 3, axis=-1).astype(np.float32)
    maps = [rebuild(model.bundle, card.backbones[backbone])(pixels) for backbone in card.heads[head].backbones]
    return np.asarray(rebuild(model.bundle, card.heads[head])(maps if len(maps) > 1 else maps[0]))


def read(model: Model, *requests: ImageRequest) -> list[Prediction]:
    """Predictions for images none of which is rejected."""
    found = model.infer(IMAGES, requests).predictions(heatmaps=True)
    assert all(isinstance(prediction, Prediction) for prediction in found)
    return [prediction for prediction in found if isinstance(prediction, Prediction)]


def test_each_request_is_answered_by_its_head_as_keras_would(model: Model) -> None:
    requests = [
        ImageRequest(3, BINARY, XRAY),
        ImageRequest(0, ENSEMBLE, XRAY),
        ImageRequest(1, BINARY, CT),
        ImageRequest(3, ENSEMBLE, XRAY),
    ]
    predictions = read(model, *requests)
    names = [prediction.opinion.head.name for prediction in predictions]
    assert names == ["binary-xray", "ensemble-xray", "binary-ct", "ensemble-xray"]
    assert [prediction.modality for prediction in predictions] == [XRAY, XRAY, CT, XRAY]
    for request, prediction in zip(requests, predictions, strict=True):
        expected = keras_says(model, prediction.opinion.head.name, IMAGES[[request.row]])[0]
        np.testing.assert_allclose(prediction.opinion.probabilities, expected, atol=1e-5)
    assert np.ptp([prediction.opinion.probabilities[-1] for prediction in predictions]) > 0.5


def test_the_ensemble_brings_the_binary_head_s_opinion_and_binary_none(model: Model) -> None:
    binary, ensemble = read(model, ImageRequest(2, BINARY, XRAY), ImageRequest(2, ENSEMBLE, XRAY))
    assert binary.second is None
    assert ensemble.second is not None
    assert ensemble.second.head.name == "binary-xray"
    np.testing.assert_array_equal(ensemble.second.probabilities, binary.opinion.probabilities)


def test_each_backbone_sees_an_image_once_and_vgg16_only_what_the_ensemble_is_asked_about(model: Model) -> None:
    everything = [ImageRequest(row, BINARY, XRAY) for row in range(len(IMAGES))]
    read(model, *everything, ImageRequest(1, ENSEMBLE, XRAY), ImageRequest(4, ENSEMBLE, XRAY))
    assert sorted(watched(model).shown) == [(DENSENET, len(IMAGES)), (VGG, 2)]


def test_without_an_ensemble_vgg16_does_not_run(model: Model) -> None:
    read(model, ImageRequest(0, BINARY, XRAY), ImageRequest(1, BINARY, CT))
    assert watched(model).shown == [(DENSENET, 2)]


def test_a_prediction_does_not_depend_on_what_else_was_asked(model: Model) -> None:
    requests = [
        ImageRequest(5, ENSEMBLE, XRAY),
        ImageRequest(0, BINARY, CT),
        ImageRequest(2, BINARY, XRAY),
        ImageRequest(1, ENSEMBLE, XRAY),
    ]
    for together, request in zip(read(model, *requests), requests, strict=True):
        (alone,) = read(model, request)
        np.testing.assert_allclose(together.opinion.probabilities, alone.opinion.probabilities, atol=1e-6)
        assert together.heatmap is not None
        assert alone.heatmap is not None
        np.testing.assert_array_equal(together.heatmap, alone.heatmap)
        assert (together.second is None) == (alone.second is None)


def test_the_heatmap_is_where_the_likeliest_class_comes_from(model: Model) -> None:
    """Bright pictures are COVID-19 for their brightness, and the right half is brighter."""
    (prediction,) = read(model, ImageRequest(3, BINARY, XRAY))
    assert prediction.heatmap is not None
    assert prediction.heatmap.shape == (7, 7)
    assert prediction.heatmap.max() == 255
    assert prediction.heatmap[:6, 4:6].min() > prediction.heatmap[:6, :3].max()


def test_heatmaps_are_made_when_asked_for(model: Model) -> None:
    (prediction,) = model.infer(IMAGES, [ImageRequest(3, BINARY, XRAY)]).predictions(heatmaps=False)
    assert isinstance(prediction, Prediction)
    assert prediction.heatmap is None


def test_nothing_asked_is_nothing_run(model: Model) -> None:
    assert model.infer(IMAGES, []).predictions(heatmaps=True) == []
    assert watched(model).shown == []


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_model(tmp_path_factory.mktemp("gated") / "gated", gated=True)


def test_the_gate_speaks_before_any_head_and_says_what_an_image_is(gated: Model) -> None:
    images = np.stack([grey(level) for level in (BLACK, CT_GREY, XRAY_GREY)])
    requests = [
        ImageRequest(row, classifier, sent_as) for row in range(3) for classifier in Classifier for sent_as in Modality
    ]
    found = dict(zip(requests, gated.infer(images, requests).predictions(heatmaps=True), strict=True))
    assert sorted(watched(gated).shown) == [(DENSENET, 3), (VGG, 1)]
    for request, prediction in found.items():
        match request.row, request.classifier, prediction:
            case 0, _, RejectedImage(reason=reason, detail=detail, modality=None):
                assert (reason, detail) == (Rejection.NOT_A_CHEST_IMAGE, REASON)
            case 1, Classifier.ENSEMBLE, RejectedImage(reason=reason, modality=Modality.CT):
                assert reason is Rejection.ENSEMBLE_NEEDS_XRAY
            case 1, Classifier.BINARY, Prediction(modality=Modality.CT, opinion=opinion):
                assert opinion.head.name == "binary-ct"
            case 2, _, Prediction(modality=Modality.XRAY, opinion=opinion):
                assert opinion.head.name == f"{request.classifier}-xray"
            case _:
                pytest.fail(f"{request} came to {prediction}")
