"""Int8 against the next engine on this very CPU: which one answers, measured once, and why.

Int8 is several times as fast as float32 where a CPU has VNNI or AMX; where it has neither, it may be slower. The more
exact engine is taken where int8 is clearly slower. What was found is kept in a file for each CPU, bundle, version of
OpenVINO and size of the batches, so that a worker measures once and not at every start.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.cpu import Cpu
from shared.inference.bundle import Bundle

log = structlog.get_logger(__name__)
#: The folder in THORAQ_MODEL_CACHE.
FOLDER = "engine-comparisons"
#: The other engine answers when int8 takes more than so many times its time. Other processes moved the ratio by a tenth
#: on two busy cores, and what is found is kept: a machine that was busy once must not be slow for good.
CLEARLY_SLOWER = 1.15
ROUNDS = 3
#: No other round begins after so many seconds: start-up matters more than the last per cent.
BUDGET_SECONDS = 5.0
#: Both engines are in memory while they are compared: 0.83 GB for int8, 1.82 GB for int8 and float32 (thoraq-3, 16
#: images). So many times what int8 needs must be there.
ROOM = 2.5


class Timed(Protocol):
    """The part of an engine that is measured."""

    @property
    def name(self) -> str: ...

    def feature_maps(self, images: NDArray[np.uint8], backbones: Collection[str]) -> object: ...


#: Seconds of a batch by engine; a parameter so that tests can say what was measured.
Timer = Callable[[Sequence[Timed], NDArray[np.uint8], Collection[str]], dict[str, float]]


class Comparison(NamedTuple):
    """What was measured, images a second by engine, and which engine answers."""

    engine: str
    images_per_second: dict[str, float]

    @property
    def reason(self) -> str:
        """Why this one, in a line for the log."""
        rates = self.images_per_second
        other = next(name for name in rates if name != self.engine)
        share = rates[self.engine] / rates[other]
        return f"{self.engine} is {share:.2f} times as fast as {other} on this CPU"

    @property
    def figures(self) -> str:
        """Who was not taken, with what was measured of both, in a line for operators."""
        rates = self.images_per_second
        other = next(name for name in rates if name != self.engine)
        return f"{other} not taken: {rates[other]:.1f} images/s, {self.engine} {rates[self.engine]:.1f}"


def compare(seconds: Mapping[str, float], images: int, first: str, exact: str) -> Comparison:
    """Which of two engines answers, given the seconds that each takes for so many images."""
    chosen = exact if seconds[first] > CLEARLY_SLOWER * seconds[exact] else first
    return Comparison(chosen, {name: round(images / seconds[name], 2) for name in (first, exact)})


def batch_seconds(engines: Sequence[Timed], images: NDArray[np.uint8], backbones: Collection[str]) -> dict[str, float]:
    """Return the least time of a few rounds, in turn: what else the machine does meanwhile falls on all alike."""
    best = dict.fromkeys((engine.name for engine in engines), math.inf)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for engine in engines:
            started = time.perf_counter()
            engine.feature_maps(images, backbones)
            best[engine.name] = min(best[engine.name], time.perf_counter() - started)
        if time.perf_counter() - began > BUDGET_SECONDS:
            break
    return best


class Comparisons:
    """What was found on this machine before. A folder that cannot be used costs another measurement, and no more."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / FOLDER

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One worker of the machine measures at a time; the next ones find what it found."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("wb")
        except OSError as error:
            self._warn(error)
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def recall(self, key: str) -> Comparison | None:
        """Return what was found for the key; None when nothing was, or the file is damaged."""
        try:
            found = json.loads(self._file(key).read_text(encoding="utf-8"))
            return Comparison(str(found["engine"]), {str(k): float(v) for k, v in found["images_per_second"].items()})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._warn(error)
            return None

    def keep(self, key: str, comparison: Comparison, cpu: Cpu) -> None:
        """Keep it, whole or not at all."""
        text = json.dumps({**comparison._asdict(), "reason": comparison.reason, "cpu": cpu.model}, indent=1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False, encoding="utf-8") as part:
                part.write(text)
            os.replace(part.name, self._file(key))  # noqa: PTH105 - the part has a name, not a path
        except OSError as error:
            self._warn(error)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _warn(self, error: Exception) -> None:
        log.warning("engine.comparison_not_kept", error=type(error).__name__, detail=str(error))


def key_of(cpu: Cpu, bundle: Bundle, batch: int, threads: int | None, rivals: Sequence[str]) -> str:
    """Return what a comparison holds for: another CPU, bundle, OpenVINO or size makes another."""
    parts = [
        cpu.model,
        sorted(cpu.features),
        sorted(cpu.precisions),
        bundle.sha256,
        version("openvino"),
        batch,
        threads,
    ]
    return hashlib.sha256(json.dumps([*parts, *rivals]).encode()).hexdigest()
