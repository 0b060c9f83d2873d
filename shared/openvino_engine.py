"""A bundle's trunks on OpenVINO: int8 from the bundle's engine files, bfloat16 and float32 from the trunks' weights.

A bundle may have int8 files for some of its trunks only; the int8 engine runs the others in bfloat16.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import openvino as ov

from shared.bundle import Bundle
from shared.engines import EngineName, Maps, Pixels, TrunkRunner, check_request, run_in_buckets
from shared.errors import EngineError, EngineOutOfMemory, ModelError
from shared.openvino_graph import build_trunk

INT8: EngineName = "openvino-int8"
#: A stream is worth its while for so many images of a batch.
STREAM_IMAGES = 4
OUT_OF_MEMORY = re.compile("bad_alloc|out of memory|alloc", re.IGNORECASE)


class OpenVinoEngine:
    """A bundle's trunks on the CPU, through OpenVINO."""

    def __init__(self, bundle: Bundle, name: EngineName, max_batch: int = 16, threads: int | None = None) -> None:
        """Load every trunk; ModelError when the bundle or the machine lacks what this engine needs.

        `threads`: None leaves it to OpenVINO, which takes one per core.
        """
        self.name = name
        self._bundle = bundle
        self._core = ov.Core()
        self._options = {"INFERENCE_PRECISION_HINT": self._precision()}
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
        self._streams = min(threads or len(os.sched_getaffinity(0)), max(max_batch // STREAM_IMAGES, 1))
        # Every size: it takes batches of any as they come, at the same rate, so there is nothing to fill them up for.
        self._batches = tuple(range(1, max_batch + 1))
        self._trunks = {trunk: self._trunk(trunk) for trunk in bundle.card.trunks}

    def maps(self, images: Pixels, trunks: Collection[str]) -> dict[str, Maps]:
        check_request(self._bundle, images, trunks)
        try:
            return run_in_buckets(images, {name: self._trunks[name] for name in trunks}, self._batches)
        except MemoryError as error:
            raise EngineOutOfMemory from error
        except RuntimeError as error:  # the only other kind that OpenVINO raises, with whatever text its plugin has
            if OUT_OF_MEMORY.search(str(error)):
                raise EngineOutOfMemory from error
            raise EngineError("the inference device failed") from error

    def warm_up(self) -> None:
        """Run every trunk once alone and once on a full batch."""
        size = self._bundle.input.size
        for count in (1, self._batches[-1]):
            self.maps(np.zeros((count, size, size), np.uint8), self._trunks.keys())

    def _precision(self) -> str:
        """What is computed in where nothing is quantised."""
        able = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.name == "openvino-bf16" and not able:
            raise ModelError("this CPU does not compute in bfloat16")
        return "bf16" if able and self.name != "openvino-float32" else "f32"

    def _trunk(self, name: str) -> TrunkRunner:
        try:
            return Compiled(self._core, self._graph(name), self._options, self._streams)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the trunk {name}") from error

    def _graph(self, name: str) -> Any:
        files = self._bundle.card.engines.get(INT8, {}) if self.name == INT8 else {}
        if self.name == INT8 and not files:
            raise ModelError(f"model bundle {self._bundle.name} has no int8 files")
        if name in files:
            return self._core.read_model(self._bundle.read(files[name].model), self._bundle.read(files[name].weights))
        trunk = self._bundle.card.trunks[name]
        description = self._bundle.load_architecture(trunk.architecture)
        return build_trunk(description, self._bundle.load_weights(trunk.weights), self._bundle.input)


class Compiled:
    """A trunk, compiled for both ends: a few images go through all cores together, a batch in parts side by side.

    In parts, no core waits for the others at every layer: a tenth faster on two cores. For one thread at a time.
    """

    def __init__(self, core: Any, graph: Any, options: dict[str, str], streams: int) -> None:
        self._streams = streams
        self._together = core.compile_model(graph, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
        if streams > 1:
            side_by_side = {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(streams)}
            self._queue = ov.AsyncInferQueue(core.compile_model(graph, "CPU", side_by_side), streams)
            self._queue.set_callback(_keep)

    def __call__(self, images: Pixels) -> Maps:
        """Feature maps (N, h, w, channels) of images (N, size, size); RuntimeError."""
        if self._streams == 1 or len(images) < self._streams * STREAM_IMAGES:
            return np.array(self._together(images)[0])
        parts: list[Maps] = [np.empty(0, np.float32)] * self._streams
        for place, part in enumerate(np.array_split(images, self._streams)):
            self._queue.start_async(part, (parts, place))
        self._queue.wait_all()
        return np.concatenate(parts)


def _keep(request: Any, kept: tuple[list[Maps], int]) -> None:
    parts, place = kept
    parts[place] = np.array(request.get_output_tensor(0).data)
