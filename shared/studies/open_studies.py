"""Studies in pieces: opened, filled, and closed, and only then classified.

A study is closed once, whoever comes to it: the call that completes it, the one that adds the last image that was
expected, or the sweeper after the quiet period. All of them lock its row first. Every function takes the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db.lookup import existing
from shared.db.tables import AuditEntry, Classifier, Image, Modality, Priority, Study
from shared.errors import Conflict, InvalidRequest, StudyOpen
from shared.ids import new_id
from shared.jobs import states
from shared.jobs.new_jobs import NewJob
from shared.studies.rows import NewImage, append_images, content_sha256


def open_study(
    session: Session,
    *,
    study_id: str,
    tenant_id: str,
    modality: Modality,
    external_id: str | None,
    metadata: dict[str, Any],
    expected_images: int | None,
    quiet_seconds: float,
    wanted: Sequence[tuple[Classifier, Priority]],
) -> Study:
    """Open a study without images; the jobs that are `wanted` are submitted when it is closed."""
    study = Study(
        id=study_id,
        tenant_id=tenant_id,
        modality=modality,
        external_id=external_id,
        extra=metadata,
        image_count=0,
        open=True,
        expected_images=expected_images,
        quiet_seconds=quiet_seconds,
        quiet_until=sa.func.now() + timedelta(seconds=quiet_seconds),
        wanted=[{"classifier": classifier, "priority": priority} for classifier, priority in wanted],
    )
    session.add(study)
    session.flush()
    return study


def stay_open(session: Session, tenant_id: str, study_id: str) -> None:
    """Begin the quiet period of an open study anew; NotFound. A closed one stays as it is."""
    _stay_open(locked(session, tenant_id, study_id))


def _stay_open(study: Study) -> None:
    if study.open:
        study.quiet_until = sa.func.now() + timedelta(seconds=study.quiet_seconds or 0)


def locked(session: Session, tenant_id: str, study_id: str) -> Study:
    """Return the tenant's study, which nobody else closes or adds to until the transaction ends; NotFound."""
    mine = sa.select(Study).where(Study.id == study_id, Study.tenant_id == tenant_id)
    return existing(session.scalar(mine.with_for_update().execution_options(populate_existing=True)), "study")


def add_images(
    session: Session,
    study: Study,
    files: Sequence[Sequence[NewImage]],
    max_files: int,
    file_names: Sequence[str | None],
) -> list[bool]:
    """Add each file's images to the locked study, numbered after those that it has; which of the files were new.

    A file whose bytes the study has already is left out, so the same request may be sent twice. When something is new:
    Conflict when the study is closed, InvalidRequest when it would have more than `max_files`.
    """
    there = set(session.scalars(sa.select(Image.sha256).where(Image.study_id == study.id)))
    next_file = session.scalar(sa.select(sa.func.max(Image.file_index) + 1).where(Image.study_id == study.id)) or 0
    added: list[bool] = []
    fresh: list[NewImage] = []
    names = study.file_names or [None] * next_file
    for images, name in zip(files, file_names, strict=True):
        added.append(images[0].sha256 not in there)
        if added[-1]:
            there.add(images[0].sha256)
            fresh += [replace(image, file_index=next_file) for image in images]
            names = [*names, name]
            next_file += 1
    if fresh and not study.open:
        raise Conflict("the study is closed")
    if fresh and next_file > max_files:
        raise InvalidRequest(f"at most {max_files} files in one study")
    append_images(session, study, fresh)
    study.file_names = names if any(names) else None
    _stay_open(study)
    session.flush()
    return added


def close_if_expected(session: Session, study: Study, actor: str) -> None:
    """Close the locked study when it has as many images as were expected."""
    if study.expected_images is not None and study.image_count >= study.expected_images:
        close(session, study, actor)


def close(session: Session, study: Study, actor: str) -> list[str]:
    """Close the locked study and submit the jobs that were wanted for it; their ids. Again: nothing.

    A study without a readable image gets no job. The caller commits, and rings after that.
    """
    if not study.open:
        return []
    held = sa.select(Image.sha256, Image.frame, Image.problem).where(Image.study_id == study.id)
    images = session.execute(held.order_by(Image.position)).all()
    study.open = False
    if images:
        study.content_sha256 = content_sha256((image.sha256, image.frame) for image in images)
    wanted = study.wanted if any(image.problem is None for image in images) else []
    jobs = [_wanted_job(study, job) for job in wanted]
    states.submit(session, jobs)
    acts = [("study.close", study.id), *(("job.submit", job.id) for job in jobs)]
    session.add_all(
        AuditEntry(tenant_id=study.tenant_id, actor=actor, action=action, subject=subject) for action, subject in acts
    )
    return [job.id for job in jobs]


def _wanted_job(study: Study, wanted: dict[str, Any]) -> NewJob:
    return NewJob(
        id=new_id("job"),
        tenant_id=study.tenant_id,
        study_id=study.id,
        classifier=Classifier(wanted["classifier"]),
        priority=Priority(wanted["priority"]),
        external_id=study.external_id,
        metadata=study.extra,
    )


def close_quiet(session: Session, limit: int) -> dict[str, list[str]]:
    """Close studies to which nothing was added for as long as they said: their ids, and those of their jobs."""
    quiet = sa.select(Study).where(Study.open, Study.quiet_until < sa.func.now()).order_by(Study.quiet_until)
    studies = session.scalars(quiet.limit(limit).with_for_update(skip_locked=True)).all()
    return {study.id: close(session, study, actor="sweeper") for study in studies}


def check_classifiable(study: Study) -> None:
    """StudyOpen while images may still come; Conflict when none of those that came can be read. Reads its images."""
    if study.open:
        raise StudyOpen("images are still added to this study")
    if all(image.problem is not None for image in study.images):
        raise Conflict("the study was closed without a readable image")
