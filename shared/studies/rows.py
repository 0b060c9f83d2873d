"""The rows of studies and of their images, many at a time. Studies in pieces are in shared/studies/open_studies.py.

Every function takes the caller's transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from shared.db.bulk_insert import Rows, insert_rows
from shared.db.tables import Image, Modality, Study
from shared.ids import new_id
from shared.imaging.info import ImageInfo


@dataclass(frozen=True)
class NewImage:
    """One picture or frame; its file is stored under `object_key`, or was refused for `problem`."""

    file_index: int
    frame: int
    sha256: str
    size_bytes: int
    object_key: str | None
    media_type: str | None
    width: int | None
    height: int | None
    problem: dict[str, Any] | None = None
    burned_in: bool = False
    deidentified: dict[str, list[str]] | None = None


@dataclass(frozen=True)
class NewStudy:
    """A study that is here as a whole."""

    id: str
    tenant_id: str
    modality: Modality
    images: Sequence[NewImage]
    external_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    #: by `file_index`; None: nobody said it, as with direct uploads
    file_names: Sequence[str | None] = ()

    @property
    def image_count(self) -> int:
        """How many there are."""
        return len(self.images)

    @property
    def burned_in(self) -> bool:
        """Whether one of its images says that text is burned into it."""
        return any(image.burned_in for image in self.images)


def images_of(
    file_index: int,
    *,
    sha256: str,
    size_bytes: int,
    object_key: str | None,
    info: ImageInfo | None,
    problem: dict[str, Any] | None = None,
) -> list[NewImage]:
    """Return the images of one file: one for each frame that its header declares.

    Of a refused file the one that says why.
    """
    return [
        NewImage(
            file_index,
            frame,
            sha256,
            size_bytes,
            object_key,
            media_type=info.media_type.value if info else None,
            width=info.width if info else None,
            height=info.height if info else None,
            problem=problem,
            burned_in=info is not None and info.burned_in,
            deidentified=info.deidentified if info and frame == 0 else None,
        )
        for frame in range(info.frames if info else 1)
    ]


def content_sha256(pairs: Iterable[tuple[str, int]]) -> str:
    """SHA-256 over (SHA-256 of the file, frame) of each image, in their order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for sha256, frame in pairs:
        digest.update(f"{sha256} {frame}\n".encode())
    return digest.hexdigest()


def add_studies(session: Session, studies: Sequence[NewStudy]) -> None:
    """Add the rows of whole studies and of their images, in the order given: one statement, however many they are."""
    insert_rows(session, *study_rows(studies))


def study_rows(studies: Sequence[NewStudy]) -> list[Rows]:
    """As `add_studies` inserts them."""
    images = [row for study in studies for row in _image_rows(study.id, study.tenant_id, study.images)]
    return [(Study, [_study_row(study) for study in studies]), (Image, images)]


def append_images(session: Session, study: Study, images: Sequence[NewImage]) -> None:
    """Add the rows of further images of a study, after those that it has. The caller has locked it."""
    insert_rows(session, (Image, _image_rows(study.id, study.tenant_id, images, study.image_count)))
    study.image_count += len(images)
    study.burned_in = study.burned_in or any(image.burned_in for image in images)


def _study_row(study: NewStudy) -> dict[str, Any]:
    return {
        "id": study.id,
        "tenant_id": study.tenant_id,
        "modality": study.modality.value,
        "external_id": study.external_id,
        "metadata": study.metadata,
        "image_count": len(study.images),
        "burned_in": study.burned_in,
        "file_names": list(study.file_names) if any(study.file_names) else None,
        "content_sha256": content_sha256((image.sha256, image.frame) for image in study.images),
    }


def _image_rows(
    study_id: str, tenant_id: str, images: Sequence[NewImage], first_position: int = 0
) -> list[dict[str, Any]]:
    return [
        {"id": new_id("img"), "tenant_id": tenant_id, "study_id": study_id, "position": position} | vars(image)
        for position, image in enumerate(images, first_position)
    ]
