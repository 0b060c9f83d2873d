"""What has to be remembered so that an interrupted batch can go on: its Idempotency-Key, and nothing of its content."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import astuple

from platformdirs import user_state_path

from client.archive import Archive
from client.batch_calls import BatchOptions


class Resumption:
    """The key of one batch, kept in the platform's state folder until the batch has been reported.

    It is found again by the server, the files (path, size, time of change) and the options. The key holds a random
    part, too: whoever sends the same files again after the end wants a new batch, not the old answer.
    """

    def __init__(self, url: str, archive: Archive, options: BatchOptions) -> None:
        of = "\0".join((url.rstrip("/"), archive.fingerprint, *map(repr, astuple(options))))
        self._mark = hashlib.sha256(of.encode()).hexdigest()
        self._path = user_state_path("thoraq", appauthor=False) / "batches" / self._mark

    def key(self, *, resume: bool) -> str:
        """Return the Idempotency-Key of an earlier run that was interrupted, or a new one.

        OSError if it cannot be kept.
        """
        kept = self._path.read_text(encoding="ascii") if resume and self._path.exists() else ""
        if kept.startswith(self._mark):
            return kept
        key = f"{self._mark}-{uuid.uuid4().hex}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(key, encoding="ascii")
        return key

    def forget(self) -> None:
        """Forget a batch that has been reported: the same files are a new one."""
        self._path.unlink(missing_ok=True)
