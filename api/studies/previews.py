"""Pictures to be looked at, made in processes of their own: decoding costs what the sender of a file wants it to cost.

A few at once and no more, each with a deadline and a budget of CPU time; what was made is kept for a while, and so is
the reason why one was not, so that nobody pays twice for the same picture.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import cv2
from flask import current_app

from api.http.ttl_cache import TTLCache
from shared.config import Settings
from shared.db.tables import Image
from shared.decoding.sandbox import Allowance, Budget, Sandbox
from shared.errors import ImageError, Unavailable
from shared.storage import Storage

EXTENSION = "thoraq-previews"
LONGEST_SIDE = 768
#: At once, in each process of the API; and how long the others wait for their turn.
MOST_AT_ONCE, PATIENCE_SECONDS = 2, 5.0
#: For one preview, by the clock.
DEADLINE_SECONDS = 10.0
#: Bytes of previews that a process keeps, how long, and how long it remembers that there is none.
KEPT_BYTES, KEPT_SECONDS, REFUSED_SECONDS = 64_000_000, 3600.0, 600.0
#: What a refusal is said to take: more than it does.
REFUSAL_BYTES = 2_000


class Previews:
    """The previews of one process of the API."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._settings, self._storage = settings, storage
        allowance = Allowance(min(DEADLINE_SECONDS, settings.decode_seconds), settings.decode_memory_bytes)
        self._sandbox = Sandbox(settings.image_limits, allowance)
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._kept: TTLCache[bytes | ImageError] = TTLCache(KEPT_BYTES)

    def png(self, image: Image) -> bytes:
        """Return a stored image in display grey, no side longer than `LONGEST_SIDE`.

        Raises the errors of `Sandbox.preview`; StorageError; and Unavailable when too many are being made.
        """
        if image.object_key is None:
            raise ImageError("the file was refused on arrival and is not kept")
        with self._turn(image.id):
            if (kept := self._kept.get(image.id)) is None:
                kept = self._make(image.id, image.object_key, image.sha256, image.frame)
        if isinstance(kept, ImageError):
            raise type(kept)(kept.detail)
        return kept

    @contextmanager
    def _turn(self, image_id: str) -> Iterator[None]:
        """Wait for it, unless the preview is there."""
        if self._kept.get(image_id) is not None:
            yield
            return
        if not self._turns.acquire(timeout=PATIENCE_SECONDS):
            raise Unavailable("too many previews are being made")
        try:
            yield
        finally:
            self._turns.release()

    def _make(self, image_id: str, key: str, sha256: str, frame: int) -> bytes | ImageError:
        data = self._storage.get(key, expect_sha256=sha256)
        seconds = self._settings.decode_cpu_seconds + self._settings.decode_cpu_seconds_per_mb * len(data) / 1e6
        try:
            grey = self._sandbox.preview(data, frame, LONGEST_SIDE, Budget(seconds))
        except ImageError as error:
            self._kept.put(image_id, value=error, seconds=REFUSED_SECONDS, size=REFUSAL_BYTES)
            return error
        _, encoded = cv2.imencode(".png", grey)
        png = encoded.tobytes()
        self._kept.put(image_id, value=png, seconds=KEPT_SECONDS, size=len(png))
        return png


def previews() -> Previews:
    """Return the current application's previews."""
    return cast(Previews, current_app.extensions[EXTENSION])
