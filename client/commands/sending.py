"""What the command sends and what became of it: several studies at a time, each with its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from client.client import Client
from client.errors import ApiError, Unreachable
from client.models import Job

SENDERS = 4
KEY_REFUSED = frozenset({401, 403})


class Exit(IntEnum):
    """What the command tells scripts; --help prints it."""

    GOOD = 0
    JOB_FAILED = 1
    USAGE = 2
    SERVER = 3
    REFUSED = 4
    UNFINISHED = 5
    INTERRUPTED = 130


# When several apply, the one that says most about what to do next: the server, the request, the input, the jobs.
WORST_FIRST = (Exit.SERVER, Exit.REFUSED, Exit.USAGE, Exit.JOB_FAILED, Exit.UNFINISHED)


@dataclass(frozen=True)
class Outcome:
    """What became of some files or of a job id: a job, or the error that stood in its way."""

    files: tuple[Path, ...] = ()
    job_id: str | None = None
    job: Job | None = None
    error: ApiError | Unreachable | OSError | None = None

    @property
    def code(self) -> Exit:
        """The exit code that this outcome alone would give."""
        if self.error is not None:
            return code_of(self.error)
        return Exit.JOB_FAILED if self.job is not None and self.job.failed else Exit.GOOD

    @property
    def hopeless(self) -> bool:
        """Whether the next request would fare the same: nobody answers, or the key is not good."""
        return isinstance(self.error, Unreachable) or (
            isinstance(self.error, ApiError) and self.error.status in KEY_REFUSED
        )


def code_of(error: ApiError | Unreachable | OSError) -> Exit:
    """Return a server that fails or asks for a pause is not one that refuses."""
    if isinstance(error, ApiError):
        return Exit.SERVER if error.status >= 500 or error.status == 429 else Exit.REFUSED
    return Exit.SERVER if isinstance(error, Unreachable) else Exit.USAGE


def worst(codes: Iterable[Exit]) -> Exit:
    """Return the one code for many outcomes."""
    seen = set(codes)
    return next((code for code in WORST_FIRST if code in seen), Exit.GOOD)


def send(thoraq: Client, studies: Sequence[tuple[Path, ...]], **options: Any) -> Iterator[Outcome]:
    """One job per study, several at a time, each outcome as it is known; stops when going on is hopeless."""

    def one(files: tuple[Path, ...]) -> Outcome:
        return attempt(lambda: thoraq.submit(files, **options), Outcome(files=files))

    pool = ThreadPoolExecutor(SENDERS)
    try:
        futures = [pool.submit(one, files) for files in studies]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            yield (outcome := future.result())
            if outcome.hopeless:
                for other in futures:
                    other.cancel()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def attempt(ask: Callable[[], Job], about: Outcome) -> Outcome:
    """`about`, with the job that `ask` returns or the error that it raises."""
    try:
        return replace(about, job=ask())
    except (ApiError, Unreachable, OSError) as error:
        return replace(about, error=error)


def follow(thoraq: Client, waiting: dict[str, Outcome]) -> Iterator[Outcome]:
    """Each outcome once its job has ended; `waiting` (by job id) always holds what is left."""
    for job in thoraq.wait_many(list(waiting)):
        yield replace(waiting.pop(job.id), job=job)
