"""Claims to pixels: fetch, verify, decode, prepare. An image that cannot be read keeps its reason, and fails alone.

PNG and JPEG are decoded here, in threads, the rest in processes that may die of it (worker/sandbox.py). A job that runs
alone is one whose last worker died: all of its files are decoded there, so that the worker outlives even a picture that
crashes the codecs of this process.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.claims import Claim, ImageRef, Outcome
from shared.config import Settings
from shared.errors import CorruptImage, ImageError, ObjectCorrupt, ObjectNotFound, ThoraqError
from shared.imaging.decode import Picture, frames, is_risky
from shared.imaging.preprocess import InputSpec, prepare
from shared.jobs import problem_of
from shared.storage import Storage
from worker.sandbox import Allowance, Sandbox

Pixels = NDArray[np.uint8]
#: What one image came to: pixels (size, size), or the problem that it has.
Loaded = Pixels | dict[str, Any]
#: An image as it goes to whoever needs no pixels.
UNSEEN: Pixels = np.zeros((1, 1), np.uint8)


@dataclass(frozen=True)
class Study:
    """A claim that is ready for the engine: its images in their order, at least one of them readable."""

    claim: Claim
    images: list[Loaded]
    seconds: float
    #: ids of slices of a CT that are shown in another window than one for lungs
    other_windows: frozenset[str] = frozenset()

    @property
    def pixels(self) -> dict[str, Pixels]:
        """The readable images, by their ids."""
        pairs = zip(self.claim.images, self.images, strict=True)
        return {ref.id: image for ref, image in pairs if not isinstance(image, dict)}


class UnreadableStudy(ImageError):
    """None of a study's images can be read; carries the first one's problem as its own."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


@dataclass
class _Fetched:
    """A stored file: its asked frames by image id, or the error that another attempt may not meet; when it was read."""

    images: dict[str, Loaded] = field(default_factory=dict)
    other_windows: set[str] = field(default_factory=set)
    error: ThoraqError | None = None
    began: float = 0
    ended: float = 0


class Loader:
    """Loads claims, a few files at a time; `progress` is called, in any thread, after every image."""

    def __init__(self, storage: Storage, settings: Settings, progress: Callable[[], None]) -> None:
        self._storage, self._progress = storage, progress
        self._limits, self._threads = settings.image_limits, settings.decode_threads
        self._sandbox = Sandbox(self._limits, Allowance(settings.decode_seconds, settings.decode_memory_bytes))
        self._pool = ThreadPoolExecutor(self._threads, "decode")

    def load(self, claims: Sequence[Claim], spec: InputSpec) -> list[Study | Outcome]:
        """Each claim's study, or how the claim ended if it cannot go to the engine.

        Each stored file is read once, however many of the claims ask for it.
        """
        wanted: dict[str, dict[str, ImageRef]] = defaultdict(dict)
        for claim in claims:
            for ref, key in _readable(claim):
                wanted[key][ref.id] = ref
        refs = [list(group.values()) for group in wanted.values()]
        fetch = partial(self._fetch, spec, any(claim.alone for claim in claims))
        files = dict(zip(wanted, self._pool.map(fetch, wanted, refs), strict=True))
        return [_loaded(claim, files) for claim in claims]

    def _fetch(self, spec: InputSpec, apart: bool, key: str, refs: Sequence[ImageRef]) -> _Fetched:
        fetched = _Fetched(began=time.perf_counter())
        try:
            self._decode(spec, apart, key, refs, fetched)
        except (ImageError, ObjectCorrupt, ObjectNotFound) as error:
            unread = [ref.id for ref in refs if ref.id not in fetched.images]
            fetched.images |= {image_id: problem_of(error) for image_id in unread}
        except ThoraqError as error:
            fetched.error = error
        self._progress()
        fetched.ended = time.perf_counter()
        return fetched

    def _decode(self, spec: InputSpec, apart: bool, key: str, refs: Sequence[ImageRef], fetched: _Fetched) -> None:
        """Every asked frame of one stored file; decoded a frame at a time, so memory stays small."""
        wanted = defaultdict[int, list[str]](list)
        for ref in refs:
            wanted[ref.frame].append(ref.id)
        data = self._storage.get(key, expect_sha256=refs[0].sha256)
        for number, picture in enumerate(self._prepared(data, spec, apart)):
            ids = wanted.pop(number, [])
            fetched.images |= dict.fromkeys(ids, picture.grey)
            if not picture.in_lung_window:
                fetched.other_windows.update(ids)
            self._progress()
        if wanted:
            raise CorruptImage("the file has fewer frames than its header says")

    def _prepared(self, data: bytes, spec: InputSpec, apart: bool) -> Iterator[Picture]:
        if apart or is_risky(data):
            return self._sandbox.prepared(data, spec)
        decoded = frames(data, self._limits, target=spec.size, threads=self._threads)
        return (Picture(prepare(grey, spec)) for grey in decoded)


def _readable(claim: Claim) -> Iterator[tuple[ImageRef, str]]:
    """The images that were stored, with their objects' keys."""
    for ref in claim.images:
        if ref.problem is None and ref.object_key is not None:
            yield ref, ref.object_key


def unseen(claims: Sequence[Claim]) -> list[Study | Outcome]:
    """As `Loader.load`, for a reader that needs no pixels: nothing is fetched."""
    return [_study(claim, [UNSEEN if ref.problem is None else ref.problem for ref in claim.images]) for claim in claims]


def _loaded(claim: Claim, files: Mapping[str, _Fetched]) -> Study | Outcome:
    mine = [files[key] for key in {key for _, key in _readable(claim)}]
    failed = next((file.error for file in mine if file.error is not None), None)
    if failed is not None:
        return Outcome(claim, error=failed)
    found = {image_id: image for file in mine for image_id, image in file.images.items()}
    images = [found[ref.id] if ref.problem is None else ref.problem for ref in claim.images]
    seconds = max(file.ended for file in mine) - min(file.began for file in mine) if mine else 0.0
    other_windows = frozenset(image_id for file in mine for image_id in file.other_windows)
    return _study(claim, images, seconds, other_windows)


def _study(
    claim: Claim, images: list[Loaded], seconds: float = 0.0, other_windows: frozenset[str] = frozenset()
) -> Study | Outcome:
    problems = [image for image in images if isinstance(image, dict)]
    if len(problems) == len(images):
        return Outcome(claim, error=UnreadableStudy(problems[0]))
    return Study(claim, images, seconds, other_windows)
