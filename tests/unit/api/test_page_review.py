"""The sentences that ask for a second look, and the image that a study opens on."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from api.pages.pictures import Picture, first_to_look_at, pictures_of
from api.pages.review import review_sentences
from api.pages.words import status_word
from shared.db.tables import Classifier, Image, JobState, Modality, Priority, ResultOutcome, Study
from shared.jobs.schemas import BundleRef, ImagePrediction, JobEnvelope, JobResult, ProblemRef, Rejection, ReviewReason

NOW = datetime(2026, 11, 29, tzinfo=UTC)
PNEUMONIA = {"normal": 0.1, "pneumonia": 0.85, "covid19": 0.05}
NORMAL = {"normal": 0.9, "pneumonia": 0.06, "covid19": 0.04}


def image(number: int, probabilities: dict[str, float] | None = None, **fields: Any) -> ImagePrediction:
    prediction = max(probabilities, key=lambda name: probabilities[name]) if probabilities else None
    return ImagePrediction(
        image_id=f"img_{number}", file=number, frame=0, prediction=prediction, probabilities=probabilities, **fields
    )


def job(
    *reasons: ReviewReason,
    probabilities: dict[str, float] | None = None,
    images: list[ImagePrediction],
    corrected: bool = False,
) -> JobEnvelope:
    result = JobResult(
        outcome=ResultOutcome.ANSWERED if probabilities else ResultOutcome.REJECTED_INPUT,
        prediction=max(probabilities, key=lambda name: probabilities[name]) if probabilities else None,
        probabilities=probabilities,
        modality=Modality.CT if corrected else Modality.XRAY,
        modality_corrected=corrected,
        needs_review=bool(reasons),
        review_reasons=list(reasons),
        second_opinion=None,
        aggregate="mean",
        images=images,
        model=BundleRef(name="test", version="1", sha256="0" * 64),
        reused_from=None,
        timings={},
    )
    return JobEnvelope(
        id="job_1",
        status=JobState.SUCCEEDED,
        study_id="stu_1",
        batch_id=None,
        classifier=Classifier.ENSEMBLE,
        modality=Modality.XRAY,
        priority=Priority.ROUTINE,
        served_as=Priority.ROUTINE,
        image_count=len(images),
        burned_in_annotation=False,
        attempts=0,
        created_at=NOW,
        queued_at=NOW,
        expires_at=None,
        started_at=NOW,
        finished_at=NOW,
        error=None,
        result=result,
    )


def pictures(of: JobEnvelope, names: list[str | None] | None = None) -> list[Picture]:
    assert of.result
    images = [Image(id=one.image_id, file_index=one.file, width=10, height=10) for one in of.result.images]
    return pictures_of(of, Study(images=images, file_names=names))


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ({"normal": 0.46, "pneumonia": 0.44, "covid19": 0.1}, "Normal (46.0\u00a0%) and Pneumonia (44.0\u00a0%) are"),
        ({"normal": 0.55, "pneumonia": 0.35, "covid19": 0.1}, "Normal (55.0\u00a0%) leads Pneumonia (35.0\u00a0%) by"),
    ],
)
def test_only_what_is_about_equally_probable_is_called_so(probabilities: dict[str, float], said: str) -> None:
    asked = job(ReviewReason.THIN_MARGIN, probabilities=probabilities, images=[image(0, probabilities)])
    (sentence,) = review_sentences(asked, pictures(asked))
    assert sentence.startswith(said)
    assert ("about equally probable" in sentence) == (probabilities["normal"] < 0.5)


def test_images_that_disagree_are_named_and_their_mean_is_not_called_equally_probable() -> None:
    mean = {"normal": 0.46, "pneumonia": 0.48, "covid19": 0.06}
    reasons = (ReviewReason.THIN_MARGIN, ReviewReason.IMAGES_DISAGREE)
    asked = job(*reasons, probabilities=mean, images=[image(0, PNEUMONIA), image(1, NORMAL)])
    thin, disagree = review_sentences(asked, pictures(asked, ["pa.png", "lateral.png"]))
    assert thin == "The mean lies between the images: Pneumonia (48.0\u00a0%) before Normal (46.0\u00a0%)."
    assert disagree == (
        "The images disagree. The study as a whole shows Pneumonia, but image 2 (\u2068lateral.png\u2069) shows "
        "Normal (90.0\u00a0%)."
    )


def test_of_many_images_that_disagree_the_clearest_are_named() -> None:
    others = [image(n, {"normal": 0.6 + n / 100, "pneumonia": 0.3, "covid19": 0.1}) for n in range(1, 6)]
    asked = job(ReviewReason.IMAGES_DISAGREE, probabilities=PNEUMONIA, images=[image(0, PNEUMONIA), *others])
    (sentence,) = review_sentences(asked, pictures(asked))
    assert re.findall(r"image (\d)", sentence) == ["6", "5", "4"]
    assert sentence.endswith("; and 2 more.")


def test_images_without_a_part_in_the_answer_are_named() -> None:
    left_out = image(1, rejected=Rejection.OTHER_MODALITY)
    broken = image(2, problem=ProblemRef(type="corrupt-image", title="Image truncated or damaged", detail=""))
    asked = job(ReviewReason.IMAGES_LEFT_OUT, probabilities=NORMAL, images=[image(0, NORMAL), left_out, broken])
    (sentence,) = review_sentences(asked, pictures(asked, ["a.png", "b.png", "c.png"]))
    assert "image 2 (\u2068b.png\u2069), image 3 (\u2068c.png\u2069)" in sentence


def test_the_other_reasons_have_their_sentences() -> None:
    reasons = (ReviewReason.CLASSIFIERS_DISAGREE, ReviewReason.MODALITY_CORRECTED)
    asked = job(*reasons, probabilities=NORMAL, images=[image(0, NORMAL)], corrected=True)
    disagree, corrected = review_sentences(asked, pictures(asked))
    assert "disagree about COVID-19" in disagree
    assert corrected.startswith("Sent as Chest X-ray, but it looks like Chest CT")


def test_a_study_opens_on_the_image_that_dissents_most_clearly() -> None:
    unclear = {"normal": 0.45, "pneumonia": 0.4, "covid19": 0.15}
    asked = job(probabilities=PNEUMONIA, images=[image(0, PNEUMONIA), image(1, unclear), image(2, NORMAL)])
    shown = pictures(asked)
    assert [picture.dissents for picture in shown] == [False, True, True]
    first = first_to_look_at(shown)
    assert first
    assert first.number == 3


def test_a_study_whose_images_agree_opens_on_the_first_with_an_answer() -> None:
    broken = image(0, problem=ProblemRef(type="corrupt-image", title="Image truncated or damaged", detail=""))
    rejected = image(1, rejected=Rejection.NOT_A_CHEST_IMAGE)
    asked = job(probabilities=NORMAL, images=[broken, rejected, image(2, NORMAL), image(3, NORMAL)])
    first = first_to_look_at(pictures(asked))
    assert first
    assert first.number == 3
    nothing = job(images=[broken, rejected])
    first = first_to_look_at(pictures(nothing))
    assert first
    assert first.number == 2
    assert first_to_look_at(pictures(job(images=[broken]))) is None


def test_a_rejected_input_is_not_classified() -> None:
    assert status_word(job(probabilities=NORMAL, images=[image(0, NORMAL)])) == "Classified"
    assert status_word(job(images=[image(0, rejected=Rejection.NOT_A_CHEST_IMAGE)])) == "Not classified"
