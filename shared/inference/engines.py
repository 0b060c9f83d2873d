"""The choice of an engine: the fastest that this machine has and that answers as the bundle was measured."""

from __future__ import annotations

import ctypes
import importlib.util
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import structlog

from shared.config import Settings
from shared.cpu import Cpu, this_cpu
from shared.errors import EngineError, ModelError
from shared.inference.batch_size import images_that_fit
from shared.inference.bundle import Bundle
from shared.inference.engine import ENGINES, REFERENCE, Engine, EngineName
from shared.inference.engine_comparison import ROOM, Comparison, Comparisons, Timer, batch_seconds, compare, key_of
from shared.inference.keras_networks import tensorflow
from shared.inference.parity import Reference, disagreement
from shared.inference.tensorflow_engine import TensorFlowEngine

log = structlog.get_logger(__name__)


class EngineChoice(NamedTuple):
    """An engine, and why others that were tried do not answer; empty when none was."""

    engine: Engine
    why: str = ""


def open_engine(bundle: Bundle, settings: Settings, room: int | None = None) -> EngineChoice:
    """Open the engine that THORAQ_ENGINE names, or the fastest of this machine that the bundle's answers agree with.

    Every engine must repeat the answers in the bundle's parity file; one that cannot be loaded or does not repeat
    them is logged and passed over. A bundle without that file is served by TensorFlow in float32 alone: that is what
    it was measured with, and to run TensorFlow first in order to judge another engine would cost what that one saves.
    With `room`, bytes of memory, an engine whose needs the card gives is made for as many images as fit, and passed
    over when none does. Raises ModelError when no engine is left.
    """
    known = Comparisons(settings.model_cache)
    return choose_engine(bundle, settings.engine, settings.batch_size, settings.engine_threads or None, room, known)


def choose_engine(
    bundle: Bundle,
    setting: str = "auto",
    max_batch: int = 16,
    threads: int | None = None,
    room: int | None = None,
    known: Comparisons | None = None,
    timer: Timer = batch_seconds,
) -> EngineChoice:
    """As `open_engine`, for those who have no settings.

    The first of `candidates` that passes; if that is int8, it and the next one that passes are compared on this CPU
    (shared/inference/engine_comparison.py), unless they were before: `known`.
    """
    opener = _Opener(bundle, max_batch, threads, room)
    names = candidates(bundle, setting)
    if setting != "auto" or names[0] != "openvino-int8":
        return opener.chosen(opener.first(names, setting))
    if known is None:
        return _int8_or_more_exact(opener, names, None, timer)
    with known.alone():
        return _int8_or_more_exact(opener, names, known, timer)


def _int8_or_more_exact(
    opener: _Opener, names: Sequence[EngineName], known: Comparisons | None, timer: Timer
) -> EngineChoice:
    """Of int8 and the next engine that passes, the one that answers on this CPU; the next where int8 does not pass."""
    int8, *others = names
    key = key_of(this_cpu(), opener.bundle, opener.max_batch, opener.threads, (int8, others[0]))
    before = None if known is None else known.recall(key)
    if before is not None and before.engine in names:
        chosen = before.engine
        log.info("engine.compared", bundle=opener.bundle.name, measured_before=True, **described(before))
        engine = opener.first(sorted(names, key=lambda name: name != chosen), "auto")
        return opener.chosen(engine, before.figures if engine.name == chosen else "")
    first = opener.first(names, "auto")
    if first.name != int8 or opener.reference is None or not opener.has_room_for_two(int8):
        return opener.chosen(first)
    second = opener.first_if_any(others)
    if second is None:
        return opener.chosen(first)
    images = np.resize(opener.reference.images, (opener.max_batch, *opener.reference.images.shape[1:]))
    seconds = timer((first, second), images, opener.bundle.card.backbones.keys())
    found = compare(seconds, len(images), int8, second.name)
    if known is not None:
        known.keep(key, found, this_cpu())
    say = log.info if found.engine == int8 else log.warning
    say("engine.compared", bundle=opener.bundle.name, measured_before=False, **described(found))
    return opener.chosen(first if found.engine == int8 else second, found.figures)


def described(found: Comparison) -> dict[str, object]:
    """Return a comparison's fields for the log."""
    return {
        "engine": found.engine,
        "reason": found.reason,
        "images_per_second": found.images_per_second,
        "cpu": this_cpu().model,
    }


class _Opener:
    """Opens a bundle's engines, each held to the bundle's reference answers; notes those that are refused."""

    def __init__(self, bundle: Bundle, max_batch: int, threads: int | None, room: int | None) -> None:
        self.bundle, self.max_batch, self.threads, self._room = bundle, max_batch, threads, room
        self.reference = Reference.read(bundle)
        self._notes: list[str] = []

    def first(self, names: Sequence[EngineName], setting: str) -> Engine:
        """Return the first of them that passes; ModelError when none does."""
        started = time.perf_counter()
        if engine := self.first_if_any(names):
            seconds = round(time.perf_counter() - started, 2)
            log.info("engine.ready", engine=engine.name, bundle=self.bundle.name, seconds=seconds)
            return engine
        why = "; ".join(self._notes) or f"none for THORAQ_ENGINE={setting}"
        raise ModelError(f"no engine runs model bundle {self.bundle.name} as it should: {why}")

    def first_if_any(self, names: Sequence[EngineName]) -> Engine | None:
        """Return the first of them that passes; why others do not is noted."""
        for name in names:
            try:
                return self.open(name)
            except (ModelError, EngineError) as error:
                self.refuse(name, error)
        return None

    def open(self, name: EngineName) -> Engine:
        """Return the engine, warm; ModelError unless it repeats the reference's answers and there is memory for it."""
        fit = self._images_that_fit(name)
        if self.reference is None and name != REFERENCE:
            raise ModelError("the bundle has no reference answers to hold it to")
        engine = make_engine(name, self.bundle, fit, self.threads)
        if self.reference is not None and (fault := disagreement(engine, self.bundle, self.reference)):
            raise ModelError(fault)
        engine.warm_up()
        return engine

    def chosen(self, engine: Engine, figures: str = "") -> EngineChoice:
        """Return the engine with the figures that it was chosen by, and why others were refused."""
        return EngineChoice(engine, "; ".join(filter(None, (figures, *self._notes))))

    def refuse(self, name: EngineName, error: ModelError | EngineError) -> None:
        """Note why it is passed over."""
        log.warning("engine.refused", engine=name, bundle=self.bundle.name, reason=error.detail)
        self._notes.append(f"{name}: {error.detail}")

    def has_room_for_two(self, name: EngineName) -> bool:
        """Whether another engine can be held beside this one while they are compared; said in the log if not."""
        need = self.bundle.card.memory_needed.get(name)
        if self._room is None or need is None or self._room >= ROOM * need.of(self.max_batch):
            return True
        reason = "no memory for two engines"
        log.warning("engine.not_compared", engine=name, bundle=self.bundle.name, reason=reason)
        self._notes.append(f"not compared with a more exact engine: {reason}")
        return False

    def _images_that_fit(self, name: EngineName) -> int:
        if self._room is None:
            return self.max_batch
        fit = images_that_fit(self.bundle, name, self.max_batch, self._room)
        if fit < self.max_batch:
            log.warning("engine.smaller_batch", engine=name, images=fit, batch_size=self.max_batch, room=self._room)
        return fit


def make_engine(name: EngineName, bundle: Bundle, max_batch: int = 16, threads: int | None = None) -> Engine:
    """Make an engine by name, unchecked; ModelError when this machine or the bundle lacks what it needs."""
    if name.startswith("tensorflow"):
        return TensorFlowEngine(bundle, max_batch, threads, half=name == "tensorflow-float16")
    if importlib.util.find_spec("openvino") is None:
        raise ModelError("OpenVINO is not installed (the extra `cpu` brings it)")
    from shared.inference.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(bundle, name, max_batch, threads)


def candidates(bundle: Bundle, setting: str, cpu: Cpu | None = None) -> list[EngineName]:
    """List the engines to try for a value of THORAQ_ENGINE on a CPU (None: this machine's), the fastest first.

    `auto` names none that the CPU, the installation or the bundle lacks what it needs for; an engine that was asked
    for by name is always tried, and refused with the reason.
    """
    if setting in {"auto", "tensorflow"} and has_gpu():
        return ["tensorflow-float16", "tensorflow"]
    if setting != "auto":
        return [name for name in ENGINES if name == setting]
    if importlib.util.find_spec("openvino") is None:
        return [REFERENCE]
    lacking = set() if "openvino-int8" in bundle.card.engines else {"openvino-int8"}
    lacking |= set() if (cpu or this_cpu()).has_bfloat16 else {"openvino-bf16"}
    return [name for name in ENGINES if name not in {"tensorflow-float16", *lacking}]


def has_gpu() -> bool:
    """Whether TensorFlow finds a GPU; not asked, since it takes seconds to load, where there is no driver for one."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return bool(tensorflow().config.list_physical_devices("GPU"))
