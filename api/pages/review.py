"""Why somebody should look twice at an answer, in sentences that name the images and numbers they speak of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from api.pages.pictures import Picture
from api.pages.words import MODALITIES, class_name, percent
from shared.jobs.schemas import JobEnvelope, JobResult, ReviewReason

#: Two answers that are no further apart are about equally probable; a bundle's `review_margin` may be much wider.
ABOUT_EQUAL = 0.1
#: So many images are named; the others are counted, and marked in the table.
NAMED = 3


def review_sentences(job: JobEnvelope, pictures: Sequence[Picture]) -> list[str]:
    """Return a sentence for each reason of the job's result; none without a result."""
    if job.result is None:
        return []
    return [_sentence(reason, job, job.result, pictures) for reason in job.result.review_reasons]


def _sentence(reason: ReviewReason, job: JobEnvelope, result: JobResult, pictures: Sequence[Picture]) -> str:
    match reason:
        case ReviewReason.THIN_MARGIN:
            return _thin_margin(result)
        case ReviewReason.CLASSIFIERS_DISAGREE:
            return "The two classifiers disagree about COVID-19."
        case ReviewReason.IMAGES_DISAGREE:
            return _images_disagree(result, pictures)
        case ReviewReason.IMAGES_LEFT_OUT:
            return _images_left_out(pictures)
        case ReviewReason.NOT_LUNG_WINDOW:
            return "A CT slice has no Hounsfield units, and was not shown in a lung window."
        case ReviewReason.MODALITY_CORRECTED:
            sent, assumed = MODALITIES[job.modality], MODALITIES[result.modality]
            return f"Sent as {sent}, but it looks like {assumed}, and was classified as that."


def _thin_margin(result: JobResult) -> str:
    ranked = sorted((result.probabilities or {}).items(), key=lambda item: item[1], reverse=True)
    if len(ranked) < 2:
        return "The answer is not clear."
    first, second = ranked[:2]
    leading, following = (f"{class_name(label)} ({percent(probability)})" for label, probability in (first, second))
    if ReviewReason.IMAGES_DISAGREE in result.review_reasons:
        return f"The mean lies between the images: {leading} before {following}."
    if first[1] - second[1] <= ABOUT_EQUAL:
        return f"{leading} and {following} are about equally probable."
    return f"{leading} leads {following} by less than this classifier needs to be sure."


def _images_disagree(result: JobResult, pictures: Sequence[Picture]) -> str:
    dissenting = sorted((p for p in pictures if p.dissents), key=lambda picture: picture.lead, reverse=True)
    whole = class_name(result.prediction or "")
    said = "; ".join(_shows(picture) for picture in dissenting[:NAMED])
    more = f"; and {len(dissenting) - NAMED} more" if len(dissenting) > NAMED else ""
    return f"The images disagree. The study as a whole shows {whole}, but {said}{more}."


def _shows(picture: Picture) -> str:
    label = picture.answer.prediction or ""
    probability = (picture.answer.probabilities or {})[label]
    return f"{picture.called} shows {class_name(label)} ({percent(probability)})"


def _images_left_out(pictures: Sequence[Picture]) -> str:
    left_out = [picture.called for picture in pictures if picture.answer.prediction is None]
    return f"No part in the answer: {', '.join(_named(left_out))}. The reasons are below."


def _named(names: Sequence[str]) -> Iterator[str]:
    yield from names[:NAMED]
    if len(names) > NAMED:
        yield f"and {len(names) - NAMED} more"
