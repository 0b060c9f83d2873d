"""Previews: made in a process of their own, a few at once, within a budget, and once."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from api.studies import previews
from api.studies.previews import LONGEST_SIDE, MOST_AT_ONCE, Previews
from shared.config import Settings
from shared.db.tables import Image
from shared.errors import CorruptImage, ImageError, TooCostly, Unavailable
from shared.storage import FolderStorage
from tests.support.files.costly import black_pages, tiny_tiles


class Counting(FolderStorage):
    """A folder store that counts what is fetched."""

    fetched = 0

    def get(self, key: str, expect_sha256: str | None = None) -> bytes:
        self.fetched += 1
        return super().get(key, expect_sha256=expect_sha256)


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    made = Counting(tmp_path)
    made.prepare()
    return made


def make(storage: FolderStorage, **changes: object) -> Previews:
    settings = Settings(
        database_url="postgresql+psycopg://nobody@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
        secret_key="x" * 32,
    )
    return Previews(settings.model_copy(update=changes), storage)


def stored(storage: FolderStorage, data: bytes, frame: int = 0) -> Image:
    storage.put("ten_1/one", io.BytesIO(data))
    return Image(id="img_1", object_key="ten_1/one", sha256=hashlib.sha256(data).hexdigest(), frame=frame)


def shape_of(png: bytes) -> tuple[int, ...]:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return tuple(picture.shape)


def test_a_preview_is_made_once_and_kept(storage: Counting) -> None:
    made, image = make(storage), stored(storage, cv2.imencode(".png", np.zeros((1600, 800), np.uint8))[1].tobytes())
    first = made.png(image)
    assert shape_of(first) == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert made.png(image) == first
    assert storage.fetched == 1


def test_of_many_pages_only_the_one_is_decoded(storage: Counting) -> None:
    """A hundred and twenty would take more CPU time than there is."""
    made, image = make(storage, decode_cpu_seconds=8.0), stored(storage, black_pages(120), frame=119)
    assert shape_of(made.png(image)) == (LONGEST_SIDE, LONGEST_SIDE)


@pytest.mark.parametrize(
    ("data", "kind", "cpu_seconds"),
    [(tiny_tiles(), TooCostly, 0.5), (cv2.imencode(".png", np.eye(99))[1].tobytes()[:-20], CorruptImage, 5.0)],
    ids=["costly", "damaged"],
)
def test_why_there_is_none_is_remembered_too(
    storage: Counting, data: bytes, kind: type[ImageError], cpu_seconds: float
) -> None:
    made = make(storage, decode_cpu_seconds=cpu_seconds, decode_cpu_seconds_per_mb=0)
    image = stored(storage, data)
    for _ in range(3):
        with pytest.raises(kind):
            made.png(image)
    assert storage.fetched == 1


def test_more_than_a_few_at_once_are_told_to_come_back(storage: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "PATIENCE_SECONDS", 0.01)
    made, image = make(storage), stored(storage, cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    turns = [made._turn("img_9") for _ in range(MOST_AT_ONCE)]
    for turn in turns:
        turn.__enter__()
    with pytest.raises(Unavailable, match="too many previews"):
        made.png(image)
    turns[0].__exit__(None, None, None)
    assert shape_of(made.png(image)) == (8, 8)


def test_a_file_that_was_refused_has_none(storage: Counting) -> None:
    with pytest.raises(ImageError, match="not kept"):
        make(storage).png(Image(id="img_2", object_key=None, sha256="", frame=0))
