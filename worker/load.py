"""Claims to pixels: fetch, verify, decode, prepare. An image that cannot be read keeps its reason, and fails alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle, Head
from shared.errors import CorruptImage, ImageError, ObjectCorrupt, ObjectNotFound, ThoraqError
from shared.imaging.decode import Limits, frames
from shared.imaging.preprocess import prepare
from shared.jobs import Claim, ImageRef, Outcome, problem_of
from shared.storage import Storage

Pixels = NDArray[np.uint8]
#: What one image came to: pixels (size, size), or the problem that it has.
Loaded = Pixels | dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A claim that is ready for the engine: its images in their order, at least one of them readable."""

    claim: Claim
    head: Head
    images: list[Loaded]
    seconds: float

    @property
    def pixels(self) -> list[Pixels]:
        """The readable images."""
        return [image for image in self.images if not isinstance(image, dict)]


class UnreadableStudy(ImageError):
    """None of a study's images can be read; carries the first one's problem as its own."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


class Loader:
    """Loads claims for one bundle; safe to call from several threads."""

    def __init__(self, storage: Storage, bundle: Bundle, limits: Limits) -> None:
        self._storage, self._bundle, self._limits = storage, bundle, limits

    def load(self, claim: Claim) -> Study | Outcome:
        """The claim's study, or how the claim ended if it cannot go to the engine."""
        started = time.perf_counter()
        try:
            head = self._bundle.head_for(claim.classifier, claim.modality)
            images = self._load_images(claim.images)
        except ThoraqError as error:
            return Outcome(claim, error=error)
        problems = [image for image in images if isinstance(image, dict)]
        if len(problems) == len(images):
            return Outcome(claim, error=UnreadableStudy(problems[0]))
        return Study(claim, head, images, time.perf_counter() - started)

    def _load_images(self, refs: Sequence[ImageRef]) -> list[Loaded]:
        by_object: dict[str, list[ImageRef]] = defaultdict(list)
        loaded: dict[str, Loaded] = {}
        for ref in refs:
            if ref.problem is not None:
                loaded[ref.id] = ref.problem
            elif ref.object_key is not None:
                by_object[ref.object_key].append(ref)
        for key, group in by_object.items():
            loaded |= self._load_object(key, group)
        return [loaded[ref.id] for ref in refs]

    def _load_object(self, key: str, refs: Sequence[ImageRef]) -> dict[str, Loaded]:
        """Every asked frame of one stored file; decoded a frame at a time, so memory stays small."""
        wanted = {ref.frame: ref.id for ref in refs}
        loaded: dict[str, Loaded] = {}
        try:
            data = self._storage.get(key, expect_sha256=refs[0].sha256)
            for number, picture in enumerate(frames(data, self._limits, target=self._bundle.input.size)):
                if number in wanted:
                    loaded[wanted.pop(number)] = prepare(picture, self._bundle.input)
            if wanted:
                raise CorruptImage("the file has fewer frames than its header says")
        except (ImageError, ObjectCorrupt, ObjectNotFound) as error:
            loaded |= {image_id: problem_of(error) for image_id in wanted.values()}
        return loaded
