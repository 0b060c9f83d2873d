"""What a worker is given to run, and what it hands back: claims, answers, outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db.tables import Classifier, Modality, ResultOutcome
from shared.errors import ThoraqError

IMAGES = sa.text("""
    SELECT study_id, id, file_index, frame, object_key, sha256, problem FROM images
    WHERE study_id = ANY (:studies) ORDER BY study_id, position
""")


@dataclass(frozen=True)
class ImageRef:
    """What a worker needs to load one image."""

    id: str
    file: int
    frame: int
    object_key: str | None
    sha256: str
    problem: dict[str, Any] | None


@dataclass(frozen=True)
class Claim:
    """A job that this worker may run until its lease ends; `token` proves it."""

    job_id: str
    token: str
    tenant_id: str
    classifier: Classifier
    modality: Modality
    waited_seconds: float
    images: tuple[ImageRef, ...]
    #: run it even if the same bytes were answered before
    force: bool = False
    #: of the study; None when nobody knows it
    content_sha256: str | None = None
    #: its last batch died: it is run in isolation
    isolated: bool = False
    #: somebody waits for it
    stat: bool = False


@dataclass(frozen=True)
class Heatmap:
    """Where the network looked for the class it predicted for one image; `png` is the backbone's grid in 8-bit grey."""

    id: str
    image_id: str
    class_name: str
    png: bytes


@dataclass(frozen=True)
class Answer:
    """The result of a claim, ready to be written: its fields are the columns of `results`."""

    bundle_sha256: str
    images: list[dict[str, Any]]
    timings: dict[str, float]
    outcome: ResultOutcome = ResultOutcome.ANSWERED
    reason: str | None = None
    detail: str | None = None
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    corrected_modality: Modality | None = None
    review_reasons: list[str] = field(default_factory=list)
    second_opinion: dict[str, Any] | None = None
    #: the job whose answer this is
    reused_from: str | None = None
    #: not columns: rows of `artifacts`, which the entries of `images` name
    heatmaps: list[Heatmap] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a claim ended: an answer, or an error."""

    claim: Claim
    answer: Answer | None = None
    error: ThoraqError | None = None

    @property
    def word(self) -> str:
        """What becomes of the job, for logs and metrics, if the lease still holds."""
        if self.answer is not None:
            return "succeeded" if self.answer.outcome is ResultOutcome.ANSWERED else self.answer.outcome.value
        return "failed" if self.error is None or self.error.permanent else "retried"


@dataclass(frozen=True)
class RetryPolicy:
    """When a transient error is tried again, and when it is enough."""

    max_attempts: int
    base_seconds: float


def claims_of(session: Session, rows: Sequence[sa.Row[Any]]) -> list[Claim]:
    """Jobs that were claimed, with the images of their studies."""
    images: dict[str, list[ImageRef]] = {row.study_id: [] for row in rows}
    for study_id, *image in session.execute(IMAGES, {"studies": list(images)}).all():
        images[study_id].append(ImageRef(*image))
    return [_claim(row, images[row.study_id]) for row in rows]


def _claim(row: sa.Row[Any], images: Sequence[ImageRef]) -> Claim:
    return Claim(
        job_id=row.id,
        token=row.token,
        tenant_id=row.tenant_id,
        classifier=Classifier(row.classifier),
        modality=Modality(row.modality),
        waited_seconds=row.waited,
        images=tuple(images),
        force=row.force,
        content_sha256=row.content_sha256,
        isolated=row.isolated,
        stat=row.stat,
    )
