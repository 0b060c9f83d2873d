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

from shared.config import Settings
from shared.decoding.sandbox import Allowance, Budget, CalledOff, Sandbox
from shared.errors import CorruptImage, ImageError, ObjectCorrupt, ObjectNotFound, ThoraqError, TooCostly, problem_of
from shared.imaging.decode import Picture, frames, wants_sandbox
from shared.imaging.preprocess import InputSpec, prepare
from shared.jobs.claims import Claim
from shared.storage import Storage
from worker.classify.loading import Loading, LoadingFile, seconds_for


class Loader:
    """Loads claims, a few files at a time; `progress` is called, in any thread, after every image."""

    def __init__(self, storage: Storage, settings: Settings, progress: Callable[[], None]) -> None:
        self._storage, self._settings, self.progress = storage, settings, progress
        self._limits, self._threads = settings.image_limits, settings.decode_threads
        self._sandbox = Sandbox(self._limits, Allowance(settings.decode_seconds, settings.decode_memory_bytes))
        self._quick, self._slow = (ThreadPoolExecutor(self._threads, f"decode-{lane}") for lane in ("quick", "slow"))
        self._lock = threading.Lock()
        self._stat_files, self._files = deque[LoadingFile](), deque[LoadingFile]()
        #: by tenant, the one whose turn is next first
        self._slow_files: dict[str, deque[LoadingFile]] = {}
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

    def _defer(self, file: LoadingFile) -> None:
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

    def _run(self, file: LoadingFile, *, quick: bool) -> None:
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

    def _decode(self, file: LoadingFile, budget: Budget, unwanted: Callable[[], bool]) -> None:
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
        """Note decoding in this process: it takes a moment, and when it does not, the watchdog is to see it."""
        began, me = time.thread_time(), threading.get_ident()
        with self._lock:
            self._decoding_here[me] = time.monotonic()
        try:
            yield
        finally:
            budget.used = time.thread_time() - began
            with self._lock:
                del self._decoding_here[me]
