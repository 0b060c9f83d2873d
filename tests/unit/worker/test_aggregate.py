"""How the predictions for a study's images become one answer, and what asks for a second look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from shared.db.tables import Classifier, Modality, ResultOutcome
from shared.inference.bundle import Head
from shared.jobs.claims import Answer, Claim, ImageRef
from shared.jobs.schemas import Rejection
from worker.classify.aggregate import answer
from worker.classify.loading import Study
from worker.classify.predictor import Opinion, Prediction, RejectedImage

XRAY, CT = Modality.XRAY, Modality.CT
PIXELS = np.zeros((4, 4), np.uint8)
PROBLEM = {"type": "corrupt-image", "title": "Image truncated or damaged", "detail": "truncated"}
NOT_CHEST = RejectedImage(Rejection.NOT_A_CHEST_IMAGE, "not a chest image", None)
ENSEMBLE_CT = RejectedImage(Rejection.ENSEMBLE_NEEDS_XRAY, "the ensemble classifies X-rays only", CT)


def head(classifier: Classifier, *classes: str, margin: float = 0.0) -> Head:
    return Head(
        classifier=classifier.value,
        modality="xray",
        classes=classes,
        activation="softmax",
        temperature=1,
        backbones=("backbone",),
        architecture="head.json",
        weights="head.safetensors",
        review_margin=margin,
        metrics={},
    )


BINARY = head(Classifier.BINARY, "covid19", "not_covid19", margin=0.2)
ENSEMBLE = head(Classifier.ENSEMBLE, "normal", "pneumonia", "covid19", margin=0.2)


def opinion(of: Head, *probabilities: float) -> Opinion:
    return Opinion(of, np.array(probabilities, np.float32))


def binary(positive: float, modality: Modality = XRAY, look: int = 255) -> Prediction:
    """An image that the binary classifier answered."""
    return Prediction(modality, opinion(BINARY, positive, 1 - positive), None, np.full((7, 7), look, np.uint8))


def ensemble(*probabilities: float, second: float) -> Prediction:
    """An X-ray that the ensemble answered; `second`: the binary classifier's probability of COVID-19."""
    looked = np.zeros((7, 7), np.uint8)
    return Prediction(XRAY, opinion(ENSEMBLE, *probabilities), opinion(BINARY, second, 1 - second), looked)


def combined(
    *images: Prediction | RejectedImage | dict[str, Any],
    sent_as: Modality = XRAY,
    other_windows: frozenset[str] = frozenset(),
) -> Answer:
    """The answer of a study whose images were read so; a dict is the problem of an unreadable one."""
    refs = tuple(ImageRef(f"img_{place}", place, 0, "key", "0" * 64, None) for place in range(len(images)))
    claim = Claim("job_1", "token", "tenant_1", Classifier.BINARY, sent_as, 1.5, refs)
    study = Study(claim, [image if isinstance(image, dict) else PIXELS for image in images], 0.25, other_windows)
    predictions = {ref.id: image for ref, image in zip(refs, images, strict=True) if not isinstance(image, dict)}
    return answer(study, predictions, "b" * 64, 0.5)


def test_one_clear_image_is_the_study() -> None:
    found = combined(binary(0.9))
    assert found.outcome is ResultOutcome.ANSWERED
    assert (found.prediction, found.probabilities) == ("covid19", {"covid19": 0.9, "not_covid19": 0.1})
    assert (found.corrected_modality, found.review_reasons, found.second_opinion) == (None, [], None)
    assert found.timings == {"queued": 1.5, "load": 0.25, "infer": 0.5, "total": 2.25}


def test_several_images_are_the_mean_of_those_that_were_answered() -> None:
    found = combined(binary(0.9), PROBLEM, NOT_CHEST, binary(0.6))
    assert found.probabilities == {"covid19": 0.75, "not_covid19": 0.25}
    assert [image.get("prediction") for image in found.images] == ["covid19", None, None, "covid19"]
    assert [image.get("rejected") for image in found.images] == [None, None, "not-a-chest-image", None]
    assert [image.get("problem") for image in found.images] == [None, PROBLEM, None, None]
    assert found.review_reasons == ["images-left-out"]


def test_the_margin_that_counts_is_the_study_s() -> None:
    assert combined(binary(0.59)).review_reasons == ["thin-margin"]
    assert combined(binary(0.62)).review_reasons == []
    assert combined(binary(0.55), binary(0.95)).review_reasons == []


def test_an_image_that_clearly_says_otherwise_is_worth_a_look_and_a_wavering_one_is_not() -> None:
    assert combined(binary(0.99), binary(0.99), binary(0.3)).review_reasons == ["images-disagree"]
    assert combined(binary(0.99), binary(0.99), binary(0.45)).review_reasons == []


def test_the_ensemble_carries_the_binary_classifier_s_opinion_and_minds_when_they_disagree() -> None:
    agreed = combined(ensemble(0.1, 0.2, 0.7, second=0.75))
    assert agreed.second_opinion == {
        "classifier": "binary",
        "prediction": "covid19",
        "probabilities": {"covid19": 0.75, "not_covid19": 0.25},
    }
    assert agreed.review_reasons == []
    assert combined(ensemble(0.1, 0.2, 0.7, second=0.4)).review_reasons == ["classifiers-disagree"]
    assert combined(ensemble(0.1, 0.7, 0.2, second=0.6)).review_reasons == ["classifiers-disagree"]
    assert combined(ensemble(0.1, 0.7, 0.2, second=0.4)).review_reasons == []


def test_second_opinions_are_combined_as_answers_are() -> None:
    found = combined(ensemble(0.1, 0.1, 0.8, second=0.9), ensemble(0.1, 0.1, 0.8, second=0.5))
    assert found.second_opinion is not None
    assert found.second_opinion["probabilities"] == {"covid19": 0.7, "not_covid19": 0.3}


def test_the_modality_is_that_of_most_chest_images_and_the_others_are_left_out() -> None:
    found = combined(binary(0.9, CT), binary(0.1, XRAY), NOT_CHEST, binary(0.9, CT), sent_as=XRAY)
    assert found.corrected_modality is CT
    assert [image.get("rejected") for image in found.images] == [None, "other-modality", "not-a-chest-image", None]
    assert found.probabilities == {"covid19": 0.9, "not_covid19": 0.1}
    assert found.review_reasons == ["modality-corrected", "images-left-out"]


def test_a_tie_between_modalities_goes_to_what_the_study_was_sent_as() -> None:
    assert combined(binary(0.9, CT), binary(0.1, XRAY), sent_as=XRAY).prediction == "not_covid19"
    assert combined(binary(0.9, CT), binary(0.1, XRAY), sent_as=CT).prediction == "covid19"


def test_a_study_without_a_chest_image_is_rejected_and_says_why() -> None:
    found = combined(NOT_CHEST, PROBLEM, NOT_CHEST)
    assert (found.outcome, found.reason, found.detail) == (
        ResultOutcome.REJECTED_INPUT,
        "not-a-chest-image",
        "not a chest image",
    )
    assert (found.prediction, found.probabilities, found.heatmaps, found.review_reasons) == (None, None, [], [])
    assert [image.get("rejected") for image in found.images] == ["not-a-chest-image", None, "not-a-chest-image"]


def test_the_ensemble_rejects_ct_also_when_a_stray_image_is_no_chest() -> None:
    found = combined(NOT_CHEST, ENSEMBLE_CT, sent_as=XRAY)
    assert (found.outcome, found.reason) == (ResultOutcome.REJECTED_INPUT, "ensemble-needs-xray")
    assert found.corrected_modality is CT


def test_a_stray_ct_slice_among_x_rays_is_left_out_of_the_ensemble_s_answer() -> None:
    xray = ensemble(0.1, 0.1, 0.8, second=0.9)
    found = combined(xray, ENSEMBLE_CT, xray)
    assert found.prediction == "covid19"
    assert [image.get("rejected") for image in found.images] == [None, "other-modality", None]


def test_every_answered_image_gets_a_heatmap_of_its_own_prediction() -> None:
    found = combined(binary(0.9, look=200), NOT_CHEST, binary(0.3, look=100))
    assert [(one.image_id, one.class_name) for one in found.heatmaps] == [
        ("img_0", "covid19"),
        ("img_2", "not_covid19"),
    ]
    assert [image.get("heatmap") for image in found.images] == [found.heatmaps[0].id, None, found.heatmaps[1].id]
    files = [np.frombuffer(one.png, np.uint8) for one in found.heatmaps]
    grids = [np.asarray(cv2.imdecode(file, cv2.IMREAD_UNCHANGED)) for file in files]
    np.testing.assert_array_equal(grids, [np.full((7, 7), 200), np.full((7, 7), 100)])


def test_a_reading_without_a_heatmap_names_none() -> None:
    found = combined(replace(binary(0.9), heatmap=None))
    assert found.heatmaps == []
    assert "heatmap" not in found.images[0]


def test_a_slice_outside_of_the_lung_window_is_worth_a_look_if_the_answer_speaks_of_it() -> None:
    slices = [binary(0.95, CT), binary(0.95, CT)]
    assert combined(*slices, sent_as=CT).review_reasons == []
    assert combined(*slices, sent_as=CT, other_windows=frozenset({"img_1"})).review_reasons == ["not-lung-window"]
    assert combined(*slices, NOT_CHEST, sent_as=CT, other_windows=frozenset({"img_2"})).review_reasons == [
        "images-left-out"
    ]
