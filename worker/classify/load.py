"""Claims to pixels: fetch, verify, decode, prepare. An image that cannot be read keeps its reason, and fails alone.

Small PNG and JPEG files are decoded here, in threads, the rest in processes that may die of it
(shared/decoding/sandbox.py). A job that runs in isolation is one whose last worker died: all of its files are decoded
there, so that the worker outlives even a picture that crashes the codecs of this process.

Files are decoded in two lanes. What is claimed together goes through the quick one, stat studies first. What is not
ready when its caller waits no longer goes on in the slow one, where tenants take turns, so that it holds up nobody.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import Settings
from shared.decoding.sandbox import Allowance, Budget, CalledOff, Sandbox
from shared.errors import CorruptImage, ImageError, ObjectCorrupt, ObjectNotFound, ThoraqError, TooCostly
from shared.imaging.decode import Picture, frames, wants_sandbox
from shared.imaging.preprocess import InputSpec, prepare
from shared.jobs.claims import Claim, ImageRef, Outcome
from shared.jobs.states import problem_of
from shared.storage import Storage

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
class _File:
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
        self.files: dict[str, _File] = {}
        for claim in claims:
            for ref, key in _readable(claim):
                file = self.files.setdefault(key, _File(self, key))
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
        """The studies of the claims that are ready, or how they ended; each is given once.

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

    def wants(self, file: _File) -> bool:
        """Whether some claim still waits for a file."""
        with self._change:
            return any(job not in self._dropped and not self._jobs[job].too_costly for job in file.claims)

    def end(self, file: _File, cpu_seconds: float, fault: BaseException | None = None) -> None:
        """A file has come to its end, and took so long."""
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


class Loader:
    """Loads claims, a few files at a time; `progress` is called, in any thread, after every image."""

    def __init__(self, storage: Storage, settings: Settings, progress: Callable[[], None]) -> None:
        self._storage, self._settings, self.progress = storage, settings, progress
        self._limits, self._threads = settings.image_limits, settings.decode_threads
        self._sandbox = Sandbox(self._limits, Allowance(settings.decode_seconds, settings.decode_memory_bytes))
        self._quick, self._slow = (ThreadPoolExecutor(self._threads, f"decode-{lane}") for lane in ("quick", "slow"))
        self._lock = threading.Lock()
        self._stat_files, self._files = deque[_File](), deque[_File]()
        #: by tenant, the one whose turn is next first
        self._slow_files: dict[str, deque[_File]] = {}
        self._decoding_here: dict[int, float] = {}

    @property
    def since(self) -> float | None:
        """Seconds of time.monotonic() at which the oldest decoding in this process began that is under way."""
        with self._lock:
            return min(self._decoding_here.values(), default=None)

    def load(self, claims: Sequence[Claim], spec: InputSpec) -> Loading:
        """Begin to load. Each stored file is read once, however many of the claims ask for it."""
        loading = Loading(claims, spec, self._settings)
        with self._lock:
            (self._stat_files if loading.stat else self._files).extend(loading.files.values())
        for _ in loading.files:
            self._quick.submit(self._next_quick)
        return loading

    def _next_quick(self) -> None:
        with self._lock:
            file = (self._stat_files or self._files).popleft()
        # Of claims that were loaded together, those of other tenants than the slow one's have their go here.
        if file.tenant_id in file.loading.slow_tenants:
            self._defer(file)
        else:
            self._run(file, quick=True)

    def _defer(self, file: _File) -> None:
        """Have a file decoded in the slow lane."""
        with self._lock:
            file.loading.slow_tenants.add(file.tenant_id)
            self._slow_files.setdefault(file.tenant_id, deque()).append(file)
        self._slow.submit(self._next_slow)

    def _next_slow(self) -> None:
        with self._lock:
            tenant = next(iter(self._slow_files))
            files = self._slow_files.pop(tenant)
            file = files.popleft()
            if files:
                self._slow_files[tenant] = files  # behind the others
        self._run(file, quick=False)

    def _run(self, file: _File, *, quick: bool) -> None:
        loading, budget = file.loading, Budget(0)
        fault: BaseException | None = None
        file.began = file.began or time.perf_counter()
        try:
            if loading.wants(file):
                self._decode(file, budget, lambda: not loading.wants(file) or (quick and file.overdue))
        except CalledOff:
            if loading.wants(file):
                self._defer(file)
                return
        except (ImageError, ObjectCorrupt, ObjectNotFound) as error:
            # Of a file that is damaged, the frames before the damage are good; one that is too costly is so as a whole.
            read = file.images.keys() if not isinstance(error, TooCostly) else set[str]()
            file.images |= {image_id: problem_of(error) for image_id in file.refs.keys() - read}
        except ThoraqError as error:
            file.error = error
        except BaseException as error:  # noqa: BLE001 - raised by whoever asks for the results
            fault = error
        self.progress()
        loading.end(file, budget.used, fault)

    def _decode(self, file: _File, budget: Budget, unwanted: Callable[[], bool]) -> None:
        """Every asked frame of one stored file; decoded a frame at a time, so memory stays small."""
        wanted = defaultdict[int, list[str]](list)
        for ref in file.refs.values():
            wanted[ref.frame].append(ref.id)
        data = self._storage.get(file.key, expect_sha256=next(iter(file.refs.values())).sha256)
        file.size = len(data)
        budget.seconds = seconds_for(len(data), self._settings)
        for number, picture in enumerate(self._prepared(file.loading, data, budget, unwanted)):
            ids = wanted.pop(number, [])
            file.images |= dict.fromkeys(ids, picture.grey)
            if not picture.in_lung_window:
                file.other_windows.update(ids)
            self.progress()
        if wanted:
            raise CorruptImage("the file has fewer frames than its header says")

    def _prepared(
        self, loading: Loading, data: bytes, budget: Budget, unwanted: Callable[[], bool]
    ) -> Iterator[Picture]:
        if loading.isolated or wants_sandbox(data):
            yield from self._sandbox.prepared(data, loading.spec, budget, unwanted)
            return
        with self._here(budget):
            for grey in frames(data, self._limits, target=loading.spec.size, threads=self._threads):
                yield Picture(prepare(grey, loading.spec))

    @contextmanager
    def _here(self, budget: Budget) -> Iterator[None]:
        """Decoding in this process: it takes a moment, and when it does not, the watchdog is to see it."""
        began, me = time.thread_time(), threading.get_ident()
        with self._lock:
            self._decoding_here[me] = time.monotonic()
        try:
            yield
        finally:
            budget.used = time.thread_time() - began
            with self._lock:
                del self._decoding_here[me]


def _readable(claim: Claim) -> Iterator[tuple[ImageRef, str]]:
    """The images that were stored, with their objects' keys."""
    for ref in claim.images:
        if ref.problem is None and ref.object_key is not None:
            yield ref, ref.object_key


def unseen(claims: Sequence[Claim]) -> list[Study | Outcome]:
    """As `Loader.load`, for a reader that needs no pixels: nothing is fetched."""
    return [_study(claim, [UNSEEN if ref.problem is None else ref.problem for ref in claim.images]) for claim in claims]


def _loaded(claim: Claim, mine: Sequence[_File]) -> Study | Outcome:
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
