"""An engine runs a bundle's backbones: prepared pixels to feature maps, behind one call.

Heads are apart (shared/inference/heads.py): they are small, and run in float32 whatever the backbone ran in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError
from shared.inference.bundle import Bundle

Pixels = NDArray[np.uint8]
FeatureMaps = NDArray[np.float32]
BackboneRunner = Callable[[Pixels], FeatureMaps]
# The fastest first, of those that a CPU can run; -float16 is TensorFlow's mixed precision, for GPUs.
EngineName = Literal["openvino-int8", "openvino-bf16", "openvino-float32", "tensorflow-float16", "tensorflow"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
REFERENCE: EngineName = "tensorflow"


class Engine(Protocol):
    """Whatever can run a bundle's backbones."""

    @property
    def name(self) -> EngineName:
        """How logs, cards and settings call it."""

    @property
    def lanes(self) -> int:
        """How many calls of `feature_maps` may run at once; with fewer, the device is idle now and then."""

    @property
    def max_batch(self) -> int:
        """How many images there is memory for at once, in all lanes together."""

    def feature_maps(
        self, images: Pixels, backbones: Collection[str], *, beside: bool = False
    ) -> dict[str, FeatureMaps]:
        """Feature maps (N, h, w, channels) of each asked backbone for prepared images (N, size, size).

        `beside`: another call is under way or comes at once, so that this one is to take a lane's share of the cores.
        Raises ModelError for a backbone that the bundle lacks, ValueError for images of another shape,
        EngineOutOfMemory when fewer images may go through, EngineError when the device fails.
        """

    def warm_up(self) -> None:
        """Do now what would make the first images slow."""


def check_request(bundle: Bundle, images: Pixels, backbones: Collection[str]) -> None:
    """ValueError for images, ModelError for backbones that an engine of this bundle cannot take."""
    size = bundle.input.size
    if images.shape[1:] != (size, size) or images.dtype != np.uint8:
        raise ValueError(f"an engine takes (N, {size}, {size}) uint8, got {images.shape} {images.dtype}")
    if unknown := set(backbones) - bundle.card.backbones.keys():
        raise ModelError(f"model bundle {bundle.name} has no backbone {', '.join(sorted(unknown))}")


def buckets(max_batch: int) -> tuple[int, ...]:
    """Return the batch sizes that a device ever sees: powers of two below `max_batch`, and it.

    A device tunes itself, or compiles, for every shape that it meets; batches of any size would keep it at that.
    """
    powers = (2**power for power in range(max_batch.bit_length()))
    return (*(size for size in powers if size < max_batch), max_batch)


def run_in_buckets(
    images: Pixels, runners: Mapping[str, BackboneRunner], sizes: tuple[int, ...]
) -> dict[str, FeatureMaps]:
    """Every backbone's maps of all images, in batches of these sizes only: the last one is filled with blank images."""
    largest = sizes[-1]
    parts: dict[str, list[FeatureMaps]] = {name: [] for name in runners}
    # No image still makes one (blank) batch: its maps, cut to none, have the right shape.
    for start in range(0, max(len(images), 1), largest):
        chunk = images[start : start + largest]
        bucket = next(size for size in sizes if size >= len(chunk))
        blank = np.zeros((bucket - len(chunk), *images.shape[1:]), np.uint8)
        filled = np.concatenate([chunk, blank]) if len(blank) else chunk
        for name, run in runners.items():
            parts[name].append(run(filled)[: len(chunk)])
    # Feature maps are twice as large as the images: mostly there is but one part, which need not be copied.
    return {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}
