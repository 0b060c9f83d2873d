"""A loaded bundle on a real engine: what it reads, and how often each trunk is run for it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.db.tables import Classifier, Modality
from shared.inference.gate import REASON
from shared.jobs.schemas import Rejection
from tests.support.bundles.brightness import BLACK, CT_GREY, DENSENET, VGG, XRAY_GREY, Watched, tiny_model
from tests.support.files.images import grey
from worker.classify.predictor import Ask, Model, Reading, Refusal

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
    maps = [rebuild(model.bundle, card.trunks[trunk])(pixels) for trunk in card.heads[head].trunks]
    return np.asarray(rebuild(model.bundle, card.heads[head])(maps if len(maps) > 1 else maps[0]))


def read(model: Model, *asks: Ask) -> list[Reading]:
    """Readings of images none of which is refused."""
    found = model.look(IMAGES, asks).readings(heatmaps=True)
    assert all(isinstance(reading, Reading) for reading in found)
    return [reading for reading in found if isinstance(reading, Reading)]


def test_each_ask_is_answered_by_its_head_as_keras_would(model: Model) -> None:
    asks = [Ask(3, BINARY, XRAY), Ask(0, ENSEMBLE, XRAY), Ask(1, BINARY, CT), Ask(3, ENSEMBLE, XRAY)]
    readings = read(model, *asks)
    names = [reading.opinion.head.name for reading in readings]
    assert names == ["binary-xray", "ensemble-xray", "binary-ct", "ensemble-xray"]
    assert [reading.modality for reading in readings] == [XRAY, XRAY, CT, XRAY]
    for ask, reading in zip(asks, readings, strict=True):
        expected = keras_says(model, reading.opinion.head.name, IMAGES[[ask.row]])[0]
        np.testing.assert_allclose(reading.opinion.probabilities, expected, atol=1e-5)
    assert np.ptp([reading.opinion.probabilities[-1] for reading in readings]) > 0.5


def test_the_ensemble_brings_the_binary_head_s_opinion_and_binary_none(model: Model) -> None:
    binary, ensemble = read(model, Ask(2, BINARY, XRAY), Ask(2, ENSEMBLE, XRAY))
    assert binary.second is None
    assert ensemble.second is not None
    assert ensemble.second.head.name == "binary-xray"
    np.testing.assert_array_equal(ensemble.second.probabilities, binary.opinion.probabilities)


def test_each_trunk_sees_an_image_once_and_vgg16_only_what_the_ensemble_is_asked_about(model: Model) -> None:
    everything = [Ask(row, BINARY, XRAY) for row in range(len(IMAGES))]
    read(model, *everything, Ask(1, ENSEMBLE, XRAY), Ask(4, ENSEMBLE, XRAY))
    assert sorted(watched(model).shown) == [(DENSENET, len(IMAGES)), (VGG, 2)]


def test_without_an_ensemble_vgg16_does_not_run(model: Model) -> None:
    read(model, Ask(0, BINARY, XRAY), Ask(1, BINARY, CT))
    assert watched(model).shown == [(DENSENET, 2)]


def test_a_reading_does_not_depend_on_what_else_was_asked(model: Model) -> None:
    asks = [Ask(5, ENSEMBLE, XRAY), Ask(0, BINARY, CT), Ask(2, BINARY, XRAY), Ask(1, ENSEMBLE, XRAY)]
    for together, ask in zip(read(model, *asks), asks, strict=True):
        (alone,) = read(model, ask)
        np.testing.assert_allclose(together.opinion.probabilities, alone.opinion.probabilities, atol=1e-6)
        assert together.heatmap is not None
        assert alone.heatmap is not None
        np.testing.assert_array_equal(together.heatmap, alone.heatmap)
        assert (together.second is None) == (alone.second is None)


def test_the_heatmap_is_where_the_likeliest_class_comes_from(model: Model) -> None:
    """Bright pictures are COVID-19 for their brightness, and the right half is brighter."""
    (reading,) = read(model, Ask(3, BINARY, XRAY))
    assert reading.heatmap is not None
    assert reading.heatmap.shape == (7, 7)
    assert reading.heatmap.max() == 255
    assert reading.heatmap[:6, 4:6].min() > reading.heatmap[:6, :3].max()


def test_heatmaps_are_made_when_asked_for(model: Model) -> None:
    (reading,) = model.look(IMAGES, [Ask(3, BINARY, XRAY)]).readings(heatmaps=False)
    assert isinstance(reading, Reading)
    assert reading.heatmap is None


def test_nothing_asked_is_nothing_run(model: Model) -> None:
    assert model.look(IMAGES, []).readings(heatmaps=True) == []
    assert watched(model).shown == []


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_model(tmp_path_factory.mktemp("gated") / "gated", gated=True)


def test_the_gate_speaks_before_any_head_and_says_what_an_image_is(gated: Model) -> None:
    images = np.stack([grey(level) for level in (BLACK, CT_GREY, XRAY_GREY)])
    asks = [Ask(row, classifier, sent_as) for row in range(3) for classifier in Classifier for sent_as in Modality]
    found = dict(zip(asks, gated.look(images, asks).readings(heatmaps=True), strict=True))
    assert sorted(watched(gated).shown) == [(DENSENET, 3), (VGG, 1)]
    for ask, reading in found.items():
        match ask.row, ask.classifier, reading:
            case 0, _, Refusal(reason=reason, detail=detail, modality=None):
                assert (reason, detail) == (Rejection.NOT_A_CHEST_IMAGE, REASON)
            case 1, Classifier.ENSEMBLE, Refusal(reason=reason, modality=Modality.CT):
                assert reason is Rejection.ENSEMBLE_NEEDS_XRAY
            case 1, Classifier.BINARY, Reading(modality=Modality.CT, opinion=opinion):
                assert opinion.head.name == "binary-ct"
            case 2, _, Reading(modality=Modality.XRAY, opinion=opinion):
                assert opinion.head.name == f"{ask.classifier}-xray"
            case _:
                pytest.fail(f"{ask} came to {reading}")
