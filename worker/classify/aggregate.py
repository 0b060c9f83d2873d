"""Predictions to an answer: how the images of a study combine, and what asks for a second look.

The study's probabilities are the mean over its answered images; so is the second opinion. Images that are no chest
images, or not of the modality that most of the study's chest images have, are left out. shared/jobs/schemas.py explains
the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.db.tables import Modality, ResultOutcome
from shared.ids import new_id
from shared.jobs.claims import Answer, Heatmap
from shared.jobs.schemas import Rejection, ReviewReason
from worker.classify.loading import Study
from worker.classify.predictor import Opinion, Prediction, RejectedImage

COVID19 = "covid19"


def answer(
    study: Study, predictions: Mapping[str, Prediction | RejectedImage], bundle_sha256: str, infer_seconds: float
) -> Answer:
    """Return the answer of a study, from the predictions of its readable images by their ids."""
    sent_as = study.claim.modality
    modality = _modality(list(predictions.values()), sent_as)
    spoken = {name: r for name, r in predictions.items() if isinstance(r, Prediction) and r.modality is modality}
    kept = _heatmaps(spoken)
    bare = Answer(
        bundle_sha256=bundle_sha256,
        images=_images(study, predictions, spoken, kept),
        timings=_timings(study, infer_seconds),
        corrected_modality=None if modality is sent_as else modality,
        heatmaps=list(kept.values()),
    )
    if not spoken:
        return _rejected(bare, predictions, modality)
    opinions = [prediction.opinion for prediction in spoken.values()]
    seconds = [prediction.second for prediction in spoken.values() if prediction.second is not None]
    whole, second = _mean(opinions), _mean(seconds) if seconds else None
    reasons = {*_doubts(whole, second, opinions), *_circumstances(study, modality, spoken)}
    return replace(
        bare,
        **_named(whole),
        review_reasons=[word.value for word in ReviewReason if word in reasons],
        second_opinion=None if second is None else {"classifier": second.head.classifier, **_named(second)},
    )


def _modality(predictions: Sequence[Prediction | RejectedImage], sent_as: Modality) -> Modality:
    """Return what most of the chest images are; what they were sent as when it is a tie, or there are none."""
    counts = Counter(prediction.modality for prediction in predictions if prediction.modality is not None)
    return max(Modality, key=lambda modality: (counts[modality], modality is sent_as))


def _rejected(bare: Answer, predictions: Mapping[str, Prediction | RejectedImage], modality: Modality) -> Answer:
    """Nothing was answered. Where there are chest images, the reason is what keeps those from being answered."""
    refusals = [prediction for prediction in predictions.values() if isinstance(prediction, RejectedImage)]
    first = next((refusal for refusal in refusals if refusal.modality is modality), refusals[0])
    return replace(bare, outcome=ResultOutcome.REJECTED_INPUT, reason=first.reason.value, detail=first.detail)


def _images(
    study: Study,
    predictions: Mapping[str, Prediction | RejectedImage],
    spoken: Mapping[str, Prediction],
    heatmaps: Mapping[str, Heatmap],
) -> list[dict[str, Any]]:
    """Return what the result keeps of each image, in the order of the study."""
    images = []
    for ref, loaded in zip(study.claim.images, study.images, strict=True):
        image: dict[str, Any] = {"image_id": ref.id, "file": ref.file, "frame": ref.frame}
        if isinstance(loaded, dict):
            image["problem"] = loaded
        elif ref.id in spoken:
            image |= _named(spoken[ref.id].opinion)
        else:
            image["rejected"] = _rejection(predictions[ref.id], spoken).value
        if ref.id in heatmaps:
            image["heatmap"] = heatmaps[ref.id].id
        images.append(image)
    return images


def _rejection(prediction: Prediction | RejectedImage, spoken: Mapping[str, Prediction]) -> Rejection:
    """Return a chest image that others outvoted is left out for that, whatever else there is against it."""
    if isinstance(prediction, Prediction) or (spoken and prediction.modality is not None):
        return Rejection.OTHER_MODALITY
    return prediction.reason


def _doubts(whole: Opinion, second: Opinion | None, opinions: Sequence[Opinion]) -> Iterator[ReviewReason]:
    """Yield what in the probabilities asks for a second look."""
    clear = whole.head.review_margin
    if _margin(whole) < clear:
        yield ReviewReason.THIN_MARGIN
    if second is not None and (_prediction(second) == COVID19) != (_prediction(whole) == COVID19):
        yield ReviewReason.CLASSIFIERS_DISAGREE
    if any(_prediction(one) != _prediction(whole) and _margin(one) >= clear for one in opinions):
        yield ReviewReason.IMAGES_DISAGREE


def _circumstances(study: Study, modality: Modality, spoken: Collection[str]) -> Iterator[ReviewReason]:
    """Yield what in the study asks for a second look."""
    if modality is not study.claim.modality:
        yield ReviewReason.MODALITY_CORRECTED
    if len(spoken) < len(study.images):
        yield ReviewReason.IMAGES_LEFT_OUT
    if modality is Modality.CT and not study.other_windows.isdisjoint(spoken):
        yield ReviewReason.NOT_LUNG_WINDOW


def _heatmaps(spoken: Mapping[str, Prediction]) -> dict[str, Heatmap]:
    return {
        image_id: Heatmap(new_id("art"), image_id, _prediction(prediction.opinion), _png(prediction.heatmap))
        for image_id, prediction in spoken.items()
        if prediction.heatmap is not None
    }


def _png(grid: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", grid)[1].tobytes()


def _mean(opinions: Sequence[Opinion]) -> Opinion:
    if len(opinions) == 1:
        return opinions[0]
    return Opinion(opinions[0].head, np.mean([opinion.probabilities for opinion in opinions], axis=0))


def _margin(opinion: Opinion) -> float:
    """By how much the likeliest class leads."""
    second, first = sorted(_values(opinion))[-2:]
    return first - second


def _prediction(opinion: Opinion) -> str:
    values = _values(opinion)
    return opinion.head.classes[values.index(max(values))]


def _values(opinion: Opinion) -> list[float]:
    # NumPy takes longer to sort two or three numbers than all the rest of an answer takes.
    return cast(list[float], opinion.probabilities.tolist())


def _named(opinion: Opinion) -> dict[str, Any]:
    probabilities = {name: round(p, 6) for name, p in zip(opinion.head.classes, _values(opinion), strict=True)}
    return {"prediction": _prediction(opinion), "probabilities": probabilities}


def _timings(study: Study, infer_seconds: float) -> dict[str, float]:
    timings = {"queued": study.claim.waited_seconds, "load": study.seconds, "infer": infer_seconds}
    return {name: round(value, 4) for name, value in {**timings, "total": sum(timings.values())}.items()}
