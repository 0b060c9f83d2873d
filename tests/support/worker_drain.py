"""What the tests of a worker's drain have in common: pictures in a store, jobs about them, one drain."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Image, Job, Study
from shared.storage import FolderStorage, Storage, object_key
from shared.studies.rows import content_sha256
from tests.support.files.images import grey
from tests.support.rows import add_job, add_tenant
from worker.classify.handler import Classify
from worker.classify.predictor import Predictor


class Counting(FolderStorage):
    """A folder store that notes what was fetched."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder
        self.fetched: list[str] = []

    def get(self, key: str, expect_sha256: str | None = None) -> bytes:
        self.fetched.append(key)
        return super().get(key, expect_sha256=expect_sha256)


def put(database: Database, storage: Storage, levels: Sequence[int]) -> None:
    """Store a picture for every image there is: of these levels of grey, in order, over and over."""
    with database.transaction() as session:
        for place, image in enumerate(session.scalars(sa.select(Image).order_by(Image.id))):
            png = cv2.imencode(".png", grey(levels[place % len(levels)]))[1].tobytes()
            stored = storage.put(object_key(image.tenant_id), io.BytesIO(png))
            image.object_key, image.sha256 = stored.key, stored.sha256


def queue(
    database: Database, storage: Storage, count: int, images: int = 1, levels: Sequence[int] = (200,)
) -> list[str]:
    """So many jobs for the binary classifier."""
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant, images=images).id for _ in range(count)]
    put(database, storage, levels)
    return ids


def drain(settings: Settings, database: Database, storage: Storage, predictor: Predictor) -> Classify:
    """Drain once, as a worker process does."""
    handler = Classify("worker", settings, database, storage, predictor)
    handler.drain(threading.Event())
    return handler


def know_contents(database: Database) -> None:
    """Give every study its content's SHA-256, as the API does."""
    with database.transaction() as session:
        for study in session.scalars(sa.select(Study)):
            study.content_sha256 = content_sha256((image.sha256, image.frame) for image in study.images)


@contextmanager
def every_job(database: Database) -> Iterator[dict[str, Job]]:
    """All jobs by id."""
    with database.transaction() as session:
        yield {job.id: job for job in session.scalars(sa.select(Job))}
