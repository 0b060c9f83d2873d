"""A bundle's backbones on OpenVINO: int8 from its engine files, bfloat16 and float32 from the backbones' weights.

A bundle may have int8 files for some of its backbones only; the int8 engine runs the others in bfloat16.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import openvino as ov

from shared.cpu import Cpu, this_cpu
from shared.errors import EngineError, EngineOutOfMemory, ModelError
from shared.inference.bundle import Bundle
from shared.inference.engine import EngineName, FeatureMaps, Pixels, check_request, run_in_buckets
from shared.inference.openvino_graph import build_backbone

INT8: EngineName = "openvino-int8"
#: A stream is worth its while for so many images of a batch.
STREAM_IMAGES = 4
OUT_OF_MEMORY = re.compile("bad_alloc|out of memory|alloc", re.IGNORECASE)


class OpenVinoEngine:
    """A bundle's backbones on the CPU, through OpenVINO."""

    def __init__(
        self,
        bundle: Bundle,
        name: EngineName,
        max_batch: int = 16,
        threads: int | None = None,
        cpu: Cpu | None = None,
    ) -> None:
        """Load every backbone; ModelError if the bundle or the CPU (None: this machine's) lacks what this engine needs.

        `threads`: None leaves it to OpenVINO, which takes one per core.
        """
        self.name, self.max_batch = name, max_batch
        self._bundle = bundle
        self._core = ov.Core()
        self._options = {"INFERENCE_PRECISION_HINT": precision(name, cpu or this_cpu())}
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
        self._parts = parts_of(max_batch, threads or len(os.sched_getaffinity(0)))
        # Every size: it takes batches of any as they come, at the same rate, so there is nothing to fill them up for.
        self._batches = tuple(range(1, max_batch + 1))
        self._backbones = {backbone: self._backbone(backbone) for backbone in bundle.card.backbones}

    @property
    def lanes(self) -> int:
        """One for each part of a full batch."""
        return self._parts.streams

    def feature_maps(
        self, images: Pixels, backbones: Collection[str], *, beside: bool = False
    ) -> dict[str, FeatureMaps]:
        check_request(self._bundle, images, backbones)
        runners = {name: partial(self._backbones[name], beside=beside) for name in backbones}
        try:
            return run_in_buckets(images, runners, self._batches)
        except MemoryError as error:
            raise EngineOutOfMemory from error
        except RuntimeError as error:  # the only other kind that OpenVINO raises, with whatever text its plugin has
            if OUT_OF_MEMORY.search(str(error)):
                raise EngineOutOfMemory from error
            raise EngineError("the inference device failed") from error

    def warm_up(self) -> None:
        """Run every backbone once alone and once on a full batch."""
        size = self._bundle.input.size
        for count in (1, self._batches[-1]):
            self.feature_maps(np.zeros((count, size, size), np.uint8), self._backbones.keys())

    def _backbone(self, name: str) -> Compiled:
        try:
            return Compiled(self._core, self._graph(name), self._options, self._parts)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the backbone {name}") from error

    def _graph(self, name: str) -> Any:
        files = self._bundle.card.engines.get(INT8, {}) if self.name == INT8 else {}
        if self.name == INT8 and not files:
            raise ModelError(f"model bundle {self._bundle.name} has no int8 files")
        if name in files:
            return self._core.read_model(self._bundle.read(files[name].model), self._bundle.read(files[name].weights))
        backbone = self._bundle.card.backbones[name]
        description = self._bundle.load_architecture(backbone.architecture)
        return build_backbone(description, self._bundle.load_weights(backbone.weights), self._bundle.input)


def precision(name: EngineName, cpu: Cpu) -> str:
    """Return what is computed in where nothing is quantised, as OpenVINO names it; ModelError when the CPU cannot."""
    if name == "openvino-bf16" and not cpu.has_bfloat16:
        raise ModelError("this CPU does not compute in bfloat16")
    return "bf16" if cpu.has_bfloat16 and name != "openvino-float32" else "f32"


class Parts(NamedTuple):
    """How a full batch is cut: so many parts side by side, of so many images each."""

    streams: int
    images: int


def parts_of(batch: int, cores: int) -> Parts:
    """As many parts as pay, with no image of a full batch and no core left over."""
    most = max(batch // STREAM_IMAGES, 1)
    streams = max(count for count in range(1, most + 1) if batch % count == 0 and cores % count == 0)
    return Parts(streams, batch // streams)


class Compiled:
    """A compiled backbone: a few images go through all cores together, a full batch in parts side by side.

    In parts, no core waits for the others at every layer: a tenth faster on two cores. Compiled for their very size
    they would be another tenth faster, but in int8 round otherwise: an image's answer would depend, by up to 0.16, on
    how many came with it. For as many threads at a time as there are parts.
    """

    def __init__(self, core: Any, graph: Any, options: dict[str, str], parts: Parts) -> None:
        self._parts = parts
        self._together = core.compile_model(graph, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
        self._all_cores = threading.Lock()
        if parts.streams > 1:
            side_by_side = {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(parts.streams)}
            compiled = core.compile_model(graph, "CPU", side_by_side)
            self._requests = SimpleQueue[Any]()
            for _ in range(parts.streams):
                self._requests.put(compiled.create_infer_request())
            self._threads = ThreadPoolExecutor(parts.streams, "part")

    def __call__(self, images: Pixels, *, beside: bool) -> FeatureMaps:
        """Feature maps (N, h, w, channels) of images (N, size, size); RuntimeError.

        `beside`: others go through it at the same time, and these take one part's cores.
        """
        streams, size = self._parts
        if streams > 1 and beside:
            return self._side_by_side(images)
        if streams > 1 and len(images) == streams * size:
            parts = (images[start : start + size] for start in range(0, len(images), size))
            return np.concatenate(list(self._threads.map(self._side_by_side, parts)))
        with self._all_cores:
            return np.array(self._together(images)[0])

    def _side_by_side(self, images: Pixels) -> FeatureMaps:
        request = self._requests.get()
        try:
            return np.array(request.infer(images)[0])
        finally:
            self._requests.put(request)
