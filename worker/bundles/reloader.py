"""Which bundle this worker serves: the active one, fetched and loaded beside the work, while the old one goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

from shared.bundle_registry import Activation, active
from shared.db.engine import Database
from shared.errors import ThoraqError, Unavailable
from shared.inference.bundle import Bundle
from worker.bundles.cache import ModelCache

log = structlog.get_logger(__name__)
Loaded = TypeVar("Loaded")
Loaded_contra = TypeVar("Loaded_contra", contravariant=True)

#: A refused bundle is tried again after this many seconds, then after twice as many each time, up to the last.
FIRST_PAUSE, LAST_PAUSE = 15.0, 900.0


class Swaps(Protocol[Loaded_contra]):
    """A handler whose model can be changed."""

    def swap(self, model: Loaded_contra) -> None:
        """Answer with this model from the next batch on."""


class BundleReloader(Generic[Loaded]):
    """Has the worker follow the active bundle. `load` makes a model of a bundle, or raises.

    A bundle that cannot be served is refused: the old one goes on, `problem` says why, and the next try comes after a
    pause, or as soon as a bundle is activated, be it the same one again.
    """

    def __init__(
        self, model_dir: Path, database: Database, cache: ModelCache, load: Callable[[Bundle], Loaded]
    ) -> None:
        self.problem: str | None = None
        self._model_dir, self._database, self._cache, self._load = model_dir, database, cache, load
        self._served: str | None = None
        self._refused: Activation | None = None
        self._pause = 0.0
        self._next_try = 0.0

    def first(self) -> Loaded:
        """Return the model to begin with: the active bundle's; without one that can be served, THORAQ_MODEL_DIR's.

        Raises ModelError when that one cannot be served either, and Unavailable when nobody can say which one is
        active, or it is in a store that cannot be reached.
        """
        wanted = self._wanted()
        if wanted is not None:
            try:
                model = self._open(wanted.sha256)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, there is another one to serve
                self._refuse(wanted, error)
            else:
                self._served = wanted.sha256
                return model
        bundle = Bundle.open(self._model_dir)
        self._served = bundle.sha256
        return self._load(bundle)

    def check(self, handler: Swaps[Loaded]) -> None:
        """Give the handler the active bundle's model, unless it has it or it was refused a moment ago."""
        wanted = self._wanted()
        if wanted is None or wanted.sha256 == self._served:
            self._forget_refusal()
            return
        if wanted == self._refused and time.monotonic() < self._next_try:
            return
        try:
            handler.swap(self._open(wanted.sha256))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one that serves goes on
            self._refuse(wanted, error)
            return
        self._served = wanted.sha256
        self._forget_refusal()
        log.info("model.swapped", sha256=wanted.sha256)
        self._cache.keep({wanted.sha256})

    def _wanted(self) -> Activation | None:
        with self._database.transaction() as session:
            return active(session)

    def _open(self, sha256: str) -> Loaded:
        self._cache.keep({sha256} | ({self._served} if self._served else set()))
        return self._load(self._cache.open(sha256))

    def _refuse(self, wanted: Activation, error: Exception) -> None:
        self._pause = min(LAST_PAUSE, self._pause * 2) if wanted == self._refused else FIRST_PAUSE
        self._next_try = time.monotonic() + self._pause
        self._refused = wanted
        bug = not isinstance(error, ThoraqError)
        detail = error.detail if isinstance(error, ThoraqError) else f"cannot be loaded ({type(error).__name__})"
        self.problem = f"{wanted.sha256[:12]}: {detail}"
        log.error("model.refused", sha256=wanted.sha256, detail=detail, seconds=self._pause, exc_info=bug)

    def _forget_refusal(self) -> None:
        self.problem = self._refused = None
