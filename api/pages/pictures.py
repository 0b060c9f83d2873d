"""The images of a study beside what the classifier said of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.studies.previews import LONGEST_SIDE
from api.studies.routes import file_name
from shared.db.tables import Image, Study
from shared.jobs.schemas import ImagePrediction, JobEnvelope

LONG = 1.6  # times the other side; chest pictures are nearly square


@dataclass(frozen=True)
class Picture:
    """An image and its answer; `width` and `height` are its preview's.

    `name` is its file's; `dissents`: it has another answer than the study as a whole.
    """

    number: int
    image: Image
    answer: ImagePrediction
    name: str | None
    dissents: bool
    width: int
    height: int

    @property
    def long(self) -> bool:
        """Much longer than wide or the reverse, so that it would leave the screen at its full width."""
        return max(self.width, self.height) > LONG * min(self.width, self.height)

    @property
    def called(self) -> str:
        """'image 2 (b.dcm)'; the name keeps to itself, whatever its direction (Unicode's first strong isolate)."""
        return f"image {self.number} (\u2068{self.name}\u2069)" if self.name else f"image {self.number}"

    @property
    def lead(self) -> float:
        """By how much its likeliest class leads, from 0 to 1; 0 without an answer."""
        first, second, *_ = [*sorted((self.answer.probabilities or {}).values(), reverse=True), 0.0, 0.0]
        return first - second


def pictures_of(job: JobEnvelope, study: Study) -> list[Picture]:
    """Return the images that the result speaks of, in the study's order; none without a result."""
    if job.result is None:
        return []
    answers = {answer.image_id: answer for answer in job.result.images}
    whole = job.result.prediction
    return [
        _picture(number, image, answers[image.id], file_name(study, image.file_index), whole)
        for number, image in enumerate(study.images, 1)
        if image.id in answers
    ]


def _picture(number: int, image: Image, answer: ImagePrediction, name: str | None, whole: str | None) -> Picture:
    width, height = image.width or 1, image.height or 1
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    dissents = answer.prediction is not None and answer.prediction != whole
    return Picture(number, image, answer, name, dissents, max(1, round(width * scale)), max(1, round(height * scale)))


def first_to_look_at(pictures: Sequence[Picture]) -> Picture | None:
    """Return the image that dissents most clearly; else the first with an answer; else the first that can be shown."""
    readable = [picture for picture in pictures if picture.answer.problem is None]
    return min(readable, key=_rank, default=None)


def _rank(picture: Picture) -> tuple[bool, float, bool, int]:
    dissent = picture.lead if picture.dissents else 0.0
    return not picture.dissents, -dissent, picture.answer.prediction is None, picture.number
