"""A bundle's trunks on whatever runs them fastest and right: prepared pixels to feature maps, behind one call.

Heads are apart (shared/inference/heads.py): they are small, and run in float32 whatever the trunk ran in.
"""

from __future__ import annotations

import ctypes
import importlib.util
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.config import Settings
from shared.cpu import Cpu, this_cpu
from shared.errors import EngineError, EngineOutOfMemory, ModelError
from shared.inference.bundle import Bundle
from shared.inference.engine_comparison import ROOM, Comparison, Comparisons, Timer, batch_seconds, compare, key_of
from shared.inference.keras_networks import rebuild, tensorflow
from shared.inference.parity import Reference, disagreement
from shared.memory import images_that_fit

log = structlog.get_logger(__name__)
Pixels = NDArray[np.uint8]
Maps = NDArray[np.float32]
TrunkRunner = Callable[[Pixels], Maps]
# The fastest first, of those that a CPU can run; -float16 is TensorFlow's mixed precision, for GPUs.
EngineName = Literal["openvino-int8", "openvino-bf16", "openvino-float32", "tensorflow-float16", "tensorflow"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
REFERENCE: EngineName = "tensorflow"


class Engine(Protocol):
    """Whatever can run a bundle's trunks."""

    @property
    def name(self) -> EngineName:
        """How logs, cards and settings call it."""

    @property
    def lanes(self) -> int:
        """How many calls of `maps` may be under way at once; with fewer, the device has nothing to do now and then."""

    @property
    def max_batch(self) -> int:
        """How many images there is memory for at once, in all lanes together."""

    def maps(self, images: Pixels, trunks: Collection[str]) -> dict[str, Maps]:
        """Feature maps (N, h, w, channels) of each asked trunk for prepared images (N, size, size).

        Raises ModelError for a trunk that the bundle lacks, ValueError for images of another shape, EngineOutOfMemory
        when fewer images may go through, EngineError when the device fails.
        """

    def warm_up(self) -> None:
        """Do now what would make the first images slow."""


class EngineChoice(NamedTuple):
    """An engine, and why others that were tried do not answer; empty when none was."""

    engine: Engine
    why: str = ""


def open_engine(bundle: Bundle, settings: Settings, room: int | None = None) -> EngineChoice:
    """The engine that THORAQ_ENGINE names, or the fastest that this machine has and the bundle's answers agree with.

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

    The first of `candidates` that passes; if that is int8, it and the next one are compared on this CPU
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
    """Of int8 and the next engine the one that answers on this CPU; where one of them is refused, the next."""
    int8, exact = names[:2]
    key = key_of(this_cpu(), opener.bundle, opener.max_batch, opener.threads, (int8, exact))
    before = None if known is None else known.recall(key)
    if before is not None and before.engine in {int8, exact}:
        chosen = before.engine
        log.info("engine.compared", bundle=opener.bundle.name, measured_before=True, **described(before))
        engine = opener.first(sorted(names, key=lambda name: name != chosen), "auto")
        return opener.chosen(engine, before.figures if engine.name == chosen else "")
    first = opener.first(names, "auto")
    if first.name != int8 or opener.reference is None or not opener.has_room_for_two(int8):
        return opener.chosen(first)
    try:
        second = opener.open(exact)
    except (ModelError, EngineError) as error:
        opener.refuse(exact, error)
        return opener.chosen(first)
    images = np.resize(opener.reference.images, (opener.max_batch, *opener.reference.images.shape[1:]))
    seconds = timer((first, second), images, opener.bundle.card.trunks.keys())
    found = compare(seconds, len(images), int8, exact)
    if known is not None:
        known.keep(key, found, this_cpu())
    say = log.info if found.engine == int8 else log.warning
    say("engine.compared", bundle=opener.bundle.name, measured_before=False, **described(found))
    return opener.chosen(first if found.engine == int8 else second, found.figures)


def described(found: Comparison) -> dict[str, object]:
    """A comparison's fields for the log."""
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
        """The first of them that passes; ModelError when none does."""
        for name in names:
            started = time.perf_counter()
            try:
                engine = self.open(name)
            except (ModelError, EngineError) as error:
                self.refuse(name, error)
                continue
            seconds = round(time.perf_counter() - started, 2)
            log.info("engine.ready", engine=name, bundle=self.bundle.name, seconds=seconds)
            return engine
        why = "; ".join(self._notes) or f"none for THORAQ_ENGINE={setting}"
        raise ModelError(f"no engine runs model bundle {self.bundle.name} as it should: {why}")

    def open(self, name: EngineName) -> Engine:
        """The engine, warm; ModelError unless it repeats the reference's answers and there is memory for it."""
        fit = self._images_that_fit(name)
        if self.reference is None and name != REFERENCE:
            raise ModelError("the bundle has no reference answers to hold it to")
        engine = make_engine(name, self.bundle, fit, self.threads)
        if self.reference is not None and (fault := disagreement(engine, self.bundle, self.reference)):
            raise ModelError(fault)
        engine.warm_up()
        return engine

    def chosen(self, engine: Engine, figures: str = "") -> EngineChoice:
        """The engine with the figures that it was chosen by, and why others were refused."""
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
    """An engine by name, unchecked; ModelError when this machine or the bundle lacks what it needs."""
    if name.startswith("tensorflow"):
        return TensorFlowEngine(bundle, max_batch, threads, half=name == "tensorflow-float16")
    if importlib.util.find_spec("openvino") is None:
        raise ModelError("OpenVINO is not installed (the extra `cpu` brings it)")
    from shared.inference.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(bundle, name, max_batch, threads)


def candidates(bundle: Bundle, setting: str, cpu: Cpu | None = None) -> list[EngineName]:
    """The engines to try for a value of THORAQ_ENGINE on a CPU (None: this machine's), in the order of their speed.

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


class TensorFlowEngine:
    """A bundle's trunks on TensorFlow, on the GPU where there is one."""

    lanes = 1

    def __init__(self, bundle: Bundle, max_batch: int = 16, threads: int | None = None, *, half: bool = False) -> None:
        """Load every trunk; ModelError when one cannot be rebuilt from its files.

        `threads`: of the CPU; None leaves it to TensorFlow. `half`: mixed precision (float16, float32 where that
        matters), which pays on a GPU only.
        """
        self.name: EngineName = "tensorflow-float16" if half else "tensorflow"
        self._tf = tensorflow(threads)
        self._bundle = bundle
        self.max_batch, self._buckets = max_batch, buckets(max_batch)
        self._policy = "mixed_float16" if half else "float32"
        self._trunks = {name: self._trunk(name) for name in bundle.card.trunks}

    def maps(self, images: Pixels, trunks: Collection[str]) -> dict[str, Maps]:
        check_request(self._bundle, images, trunks)
        try:
            return run_in_buckets(images, {name: self._trunks[name] for name in trunks}, self._buckets)
        except (self._tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise EngineOutOfMemory from error
        except self._tf.errors.OpError as error:
            raise EngineError("the inference device failed") from error

    def warm_up(self) -> None:
        """Compile every trunk; a GPU also chooses its algorithms for every batch size, which takes it seconds."""
        size = self._bundle.input.size
        for bucket in self._buckets if self._tf.config.list_physical_devices("GPU") else self._buckets[:1]:
            self.maps(np.zeros((bucket, size, size), np.uint8), self._trunks.keys())

    def _trunk(self, name: str) -> TrunkRunner:
        tf, size, channels = self._tf, self._bundle.input.size, self._bundle.input.channels
        network = rebuild(self._bundle, self._bundle.card.trunks[name], self._policy)

        # The signature leaves the batch open: one trace serves every bucket.
        @tf.function(input_signature=[tf.TensorSpec((None, size, size), tf.uint8)])  # type: ignore[untyped-decorator]
        def run(images: Any) -> Any:
            grey = tf.cast(images, tf.float32)[..., tf.newaxis]
            return tf.cast(network(tf.repeat(grey, channels, axis=-1), training=False), tf.float32)

        return lambda images: np.asarray(run(tf.constant(images)))


def check_request(bundle: Bundle, images: Pixels, trunks: Collection[str]) -> None:
    """ValueError for images, ModelError for trunks that an engine of this bundle cannot take."""
    size = bundle.input.size
    if images.shape[1:] != (size, size) or images.dtype != np.uint8:
        raise ValueError(f"an engine takes (N, {size}, {size}) uint8, got {images.shape} {images.dtype}")
    if unknown := set(trunks) - bundle.card.trunks.keys():
        raise ModelError(f"model bundle {bundle.name} has no trunk {', '.join(sorted(unknown))}")


def buckets(max_batch: int) -> tuple[int, ...]:
    """The batch sizes that a device ever sees: powers of two below `max_batch`, and it.

    A device tunes itself, or compiles, for every shape that it meets; batches of any size would keep it at that.
    """
    powers = (2**power for power in range(max_batch.bit_length()))
    return (*(size for size in powers if size < max_batch), max_batch)


def run_in_buckets(images: Pixels, runners: Mapping[str, TrunkRunner], sizes: tuple[int, ...]) -> dict[str, Maps]:
    """Every trunk's maps of all images, in batches of these sizes only: the last one is filled with blank images."""
    largest = sizes[-1]
    parts: dict[str, list[Maps]] = {name: [] for name in runners}
    # No image still makes one (blank) batch: its maps, cut to none, have the right shape.
    for start in range(0, max(len(images), 1), largest):
        chunk = images[start : start + largest]
        bucket = next(size for size in sizes if size >= len(chunk))
        blank = np.zeros((bucket - len(chunk), *images.shape[1:]), np.uint8)
        filled = np.concatenate([chunk, blank]) if len(blank) else chunk
        for name, run in runners.items():
            parts[name].append(run(filled)[: len(chunk)])
    # Maps are twice as large as the images: mostly there is but one part, which need not be copied.
    return {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}
