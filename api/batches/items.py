"""From what was sent to the rows of a batch: each file, group of files or line becomes a job, or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from api.batches.schemas import BatchForm, BatchLine
from api.uploads.receive import StoredFile, check_supported, new_images, settle_modality
from shared.batches import Accepted, Rejected
from shared.db.tables import Modality, Study
from shared.errors import ThoraqError, problem_of
from shared.ids import new_id
from shared.jobs.new_jobs import NewJob
from shared.studies.rows import NewStudy

NOTHING_ASKED = BatchLine.model_construct()


@dataclass(frozen=True)
class BatchContext:
    """What all items of a batch have in common."""

    batch_id: str
    tenant_id: str
    form: BatchForm
    expires_at: datetime | None = None


@dataclass(frozen=True)
class ReceivedItem:
    """One item as it came: a file that was taken in, a line that was read, or why it was neither."""

    item: int
    member: str | None = None
    taken: StoredFile | None = None
    #: a file asks for nothing beside its batch
    line: BatchLine = field(default_factory=lambda: NOTHING_ASKED)
    custom_id: str | None = None
    error: ThoraqError | None = None


def refuse(received: ReceivedItem, error: ThoraqError) -> Rejected:
    """Return the item as one that is listed among the errors; a line's wrong fields with it."""
    problem = problem_of(error)
    if "errors" in error.extensions:
        problem = problem | {"errors": error.extensions["errors"]}
    return Rejected(received.item, problem, received.member, received.custom_id)


def of_files(context: BatchContext, received: ReceivedItem, files: Sequence[StoredFile]) -> Accepted | Rejected:
    """Return a new study of files; refused when none of them is readable or they are of different modalities."""
    errors = [one.error for one in files if one.error is not None]
    if len(errors) == len(files):
        return refuse(received, errors[0])
    line = received.line
    try:
        # The batch's modality is that of files which do not say it: a CT among X-rays is a study of its own.
        modality = settle_modality(files, line.modality, otherwise=context.form.modality)
        check_supported(line.classifier or context.form.classifier, modality)
    except ThoraqError as error:
        return refuse(received, error)
    images = [image for number, one in enumerate(files) for image in new_images(number, one)]
    names = [one.name for one in files]
    study = NewStudy(new_id("stu"), context.tenant_id, modality, images, line.external_id, line.metadata or {}, names)
    return Accepted(_job(context, received, study.id, line.external_id, line.metadata or {}), study)


def of_study(context: BatchContext, received: ReceivedItem, study: Study) -> Accepted | Rejected:
    """Another job for a study that is here."""
    line = received.line
    try:
        check_supported(line.classifier or context.form.classifier, Modality(study.modality))
    except ThoraqError as error:
        return refuse(received, error)
    metadata = study.extra if line.metadata is None else line.metadata
    return Accepted(_job(context, received, study.id, line.external_id or study.external_id, metadata))


def _job(
    context: BatchContext, received: ReceivedItem, study_id: str, external_id: str | None, metadata: dict[str, Any]
) -> NewJob:
    return NewJob(
        id=new_id("job"),
        tenant_id=context.tenant_id,
        study_id=study_id,
        classifier=received.line.classifier or context.form.classifier,
        priority=received.line.priority or context.form.priority,
        external_id=external_id,
        metadata=metadata,
        batch_id=context.batch_id,
        item=received.item,
        member=received.member,
        custom_id=received.custom_id,
        expires_at=context.expires_at,
        force=context.form.force,
    )
