"""Bundles fetched from the object store: a folder each, named after the bundle's SHA-256.

The workers of a machine may share it. One at a time fetches or tidies up; a bundle that a worker has open is locked
(flock), so that no other removes it. The kernel ends the locks of a process that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from shared.errors import ModelError
from shared.inference.bundle import Bundle
from shared.inference.bundle_store import fetch
from shared.inference.engine_comparison import FOLDER
from shared.storage import Storage

log = structlog.get_logger(__name__)
LOCK = ".lock"


class ModelCache:
    """The cache as one process sees it. Not for several threads at once."""

    def __init__(self, root: Path, storage: Storage) -> None:
        self._root, self._storage = root, storage
        self._held: dict[str, int] = {}

    def open(self, sha256: str) -> Bundle:
        """Return the bundle, verified; fetched unless it is here. It stays here until `keep` is told otherwise.

        Raises ModelError when it is missing or damaged in the store, or the folder cannot be written; StorageError
        when the store cannot be reached.
        """
        with self._alone():
            if not self._is_whole(sha256):
                self._fetch(sha256)
            self._hold(sha256)
            return Bundle.open(self._root / sha256, verify=False)

    def keep(self, wanted: Collection[str]) -> None:
        """Let go of all others, and remove those that no process holds: disks are small, and bundles are not."""
        if not self._root.is_dir():
            return
        with self._alone():
            for sha256 in self._held.keys() - wanted:
                os.close(self._held.pop(sha256))
            for entry in self._root.iterdir():
                # Whoever fetches holds the lock that is held here: an unfinished folder was left behind.
                if entry.name not in {LOCK, FOLDER, *wanted} and not _in_use(entry):
                    shutil.rmtree(entry)
                    log.info("model.cache_removed", sha256=entry.name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with (self._root / LOCK).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "unknown")
            raise ModelError(f"the model cache (THORAQ_MODEL_CACHE) failed: {code}") from error

    def _is_whole(self, sha256: str) -> bool:
        path = self._root / sha256
        if not path.is_dir():
            return False
        try:
            whole = Bundle.open(path).sha256 == sha256
        except ModelError as error:
            log.warning("model.cache_damaged", sha256=sha256, detail=error.detail)
            whole = False
        if not whole:
            shutil.rmtree(path)
        return whole

    def _fetch(self, sha256: str) -> None:
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._root))
        try:
            fetch(sha256, self._storage, part)
            Bundle.open(part)
            part.rename(self._root / sha256)
        except BaseException:
            shutil.rmtree(part)
            raise
        log.info("model.fetched", sha256=sha256)

    def _hold(self, sha256: str) -> None:
        descriptor = os.open(self._root / sha256, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if sha256 in self._held:
            os.close(self._held[sha256])
        self._held[sha256] = descriptor


def _in_use(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
