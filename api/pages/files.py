"""Names of files as a reader sees them: of a study's own files, or of the item of a batch that became its job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db.tables import Study


@dataclass(frozen=True)
class StudyFiles:
    """The name of a study's first file, if one is known, and how many files stand beside it."""

    first: str | None
    others: int


def files_of(session: Session, study_ids: Collection[str]) -> Mapping[str, StudyFiles]:
    """Return the files of studies, by the studies' ids. Reads no more than one name of each, however many there are."""
    count = sa.func.coalesce(sa.func.cardinality(Study.file_names), 0)
    wanted = sa.select(Study.id, Study.file_names[1], count).where(Study.id.in_(study_ids))
    return {study_id: StudyFiles(first, max(total - 1, 0)) for study_id, first, total in session.execute(wanted)}
