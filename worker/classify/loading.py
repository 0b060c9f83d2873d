"""Claims loaded together, and what becomes of them: studies ready for the engine, or how they ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import Settings
from shared.errors import ImageError, ThoraqError, TooCostly
from shared.imaging.preprocess import InputSpec
from shared.jobs.claims import Claim, ImageRef, Outcome

Pixels = NDArray[np.uint8]
#: What one image came to: pixels (size, size), or the problem that it has.
Loaded = Pixels | dict[str, Any]
#: CPU seconds that a job has for each of its files, whatever the file's size: fetching, verifying, preparing.
SECONDS_PER_FILE = 0.02
#: What a file may take in the quick lane when nobody waits for its claims any longer.
QUICK_SECONDS = 0.5
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


@dataclass(eq=False)
class LoadingFile:
    """A stored file that claims ask for: its asked frames by image id, or the error that another attempt may not meet.

    `began` and `ended` are seconds of time.perf_counter().
    """

    loading: Loading
    key: str
    #: by image id: two jobs of one study ask for the same image
    refs: dict[str, ImageRef] = field(default_factory=dict)
    #: by job id
    claims: dict[str, Claim] = field(default_factory=dict)
    images: dict[str, Loaded] = field(default_factory=dict)
    other_windows: set[str] = field(default_factory=set)
    error: ThoraqError | None = None
    began: float = 0
    ended: float = 0
    size: int = 0

    @property
    def tenant_id(self) -> str:
        """Whose it is; every claim that asks for a file is of one tenant."""
        return next(iter(self.claims.values())).tenant_id

    @property
    def overdue(self) -> bool:
        """Whether nobody waits for it any longer, and it has had its time in the quick lane."""
        return self.loading.late and time.perf_counter() - self.began >= QUICK_SECONDS


@dataclass
class _Job:
    """How far the files of a claim are, and what they took."""

    files: int = 0
    done: int = 0
    size: int = 0
    cpu_seconds: float = 0
    too_costly: bool = False

    @property
    def error(self) -> TooCostly:
        return TooCostly(
            f"{self.cpu_seconds:.1f} s of CPU time for the first {self.done} of the job's {self.files} files,"
            f" {self.size / 1e6:.1f} MB: more than all of them may take."
        )


class Loading:
    """Claims that are being loaded together; each is ready by itself. For several threads."""

    def __init__(self, claims: Sequence[Claim], spec: InputSpec, settings: Settings) -> None:
        self.spec, self._settings = spec, settings
        self.isolated, self.stat = any(claim.isolated for claim in claims), any(claim.stat for claim in claims)
        #: set when its caller waits no longer
        self.late = False
        #: tenants that have a file in the slow lane; their others follow it there
        self.slow_tenants: set[str] = set()
        #: called when a claim may have become ready
        self.notify: Callable[[], None] = lambda: None
        self._pending = list(claims)
        self._jobs = {claim.job_id: _Job() for claim in claims}
        self._dropped: set[str] = set()
        self._change = threading.Condition()
        self._fault: BaseException | None = None
        self.files: dict[str, LoadingFile] = {}
        for claim in claims:
            for ref, key in _readable(claim):
                file = self.files.setdefault(key, LoadingFile(self, key))
                file.refs[ref.id] = ref
                file.claims[claim.job_id] = claim
        for file in self.files.values():
            for job_id in file.claims:
                self._jobs[job_id].files += 1

    @property
    def pending(self) -> list[Claim]:
        """The claims whose result was not taken yet, and that were not dropped."""
        with self._change:
            return list(self._pending)

    def results(self, seconds: float | None = None) -> list[Study | Outcome]:
        """Return the studies of the claims that are ready, or how they ended; each is given once.

        Waits until all are, for so long at most.
        """
        with self._change:
            self._change.wait_for(lambda: self._fault or all(map(self._ready, self._pending)), seconds)
            if self._fault is not None:
                raise self._fault
            ready = [claim for claim in self._pending if self._ready(claim)]
            self._pending = [claim for claim in self._pending if claim not in ready]
        return [self._result(claim) for claim in ready]

    def drop(self, claims: Sequence[Claim]) -> None:
        """Nobody wants the results of these any more: what only they ask for is not decoded further."""
        with self._change:
            self._dropped.update(claim.job_id for claim in claims)
            self._pending = [claim for claim in self._pending if claim.job_id not in self._dropped]
            self._change.notify_all()

    def wants(self, file: LoadingFile) -> bool:
        """Whether some claim still waits for a file."""
        with self._change:
            return any(job not in self._dropped and not self._jobs[job].too_costly for job in file.claims)

    def end(self, file: LoadingFile, cpu_seconds: float, fault: BaseException | None = None) -> None:
        """Note that a file has come to its end, and took so long."""
        with self._change:
            file.ended, self._fault = time.perf_counter(), self._fault or fault
            for job_id in file.claims:
                job = self._jobs[job_id]
                job.done, job.size, job.cpu_seconds = job.done + 1, job.size + file.size, job.cpu_seconds + cpu_seconds
                most = seconds_for(job.size, self._settings) + SECONDS_PER_FILE * job.done
                job.too_costly = job.too_costly or (job.cpu_seconds > most and job.done < job.files)
            self._change.notify_all()
        self.notify()

    def _ready(self, claim: Claim) -> bool:
        job = self._jobs[claim.job_id]
        return job.too_costly or job.done == job.files

    def _result(self, claim: Claim) -> Study | Outcome:
        if (job := self._jobs[claim.job_id]).too_costly:
            return Outcome(claim, error=job.error)
        return _loaded(claim, [self.files[key] for key in {key for _, key in _readable(claim)}])


def seconds_for(size: int, settings: Settings) -> float:
    """CPU seconds that decoding so many bytes may take."""
    return settings.decode_cpu_seconds + settings.decode_cpu_seconds_per_mb * size / 1e6


def _readable(claim: Claim) -> Iterator[tuple[ImageRef, str]]:
    """Yield the images that were stored, with their objects' keys."""
    for ref in claim.images:
        if ref.problem is None and ref.object_key is not None:
            yield ref, ref.object_key


def unseen(claims: Sequence[Claim]) -> list[Study | Outcome]:
    """As `Loader.load`, for a reader that needs no pixels: nothing is fetched."""
    return [_study(claim, [UNSEEN if ref.problem is None else ref.problem for ref in claim.images]) for claim in claims]


def _loaded(claim: Claim, mine: Sequence[LoadingFile]) -> Study | Outcome:
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
