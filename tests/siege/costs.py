"""A small search for the dearest file of each format: none may cost more CPU time than is promised where others wait.

Each family makes files by some whole numbers; the search doubles and halves them, and keeps what costs more for its
size. What is counted is what the API's process does with a file (its header, de-identification), what a worker's own
process does, and what a decoder apart is allowed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from imagecodecs import lzma_encode
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEG2000, UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from shared.config import Settings
from shared.decoding.sandbox import Allowance, Budget, Sandbox
from shared.errors import ThoraqError
from shared.imaging.decode import frames, probe, wants_sandbox
from shared.imaging.dicom.deidentification.deidentify import deidentified
from shared.imaging.info import Limits, MediaType
from shared.imaging.preprocess import InputSpec
from tests.siege.files import many_scans, with_text
from tests.support.files.costly import tiff_of, tiny_tiles
from tests.support.files.images import make_dicom

FIELDS = Settings.model_fields
#: What a file may cost: so many CPU seconds, and so many more for each megabyte.
SECONDS, SECONDS_PER_MB = FIELDS["decode_cpu_seconds"].default, FIELDS["decode_cpu_seconds_per_mb"].default
#: A decoder is stopped by the kernel, by whole seconds.
GRAIN_SECONDS = 1.5
#: Files that take longer than this to make are no finds.
MOST_BYTES = 20_000_000

Numbers = Mapping[str, int]


@dataclass(frozen=True)
class Family:
    """Files of one kind: what they are made by, each number with its least and its most."""

    name: str
    make: Callable[[Numbers], bytes]
    ranges: Mapping[str, tuple[int, int]]


def _picture(side: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)


def _png(by: Numbers) -> bytes:
    png: bytes = cv2.imencode(".png", _picture(by["side"]), (cv2.IMWRITE_PNG_COMPRESSION, by["level"]))[1].tobytes()
    return with_text(png, by["chunks"], by["inflated"])


def _tiff_strips(by: Numbers) -> bytes:
    return tiff_of(bytes(lzma_encode(bytes(by["side"] ** 2))), by["pages"], by["side"])


def _dicom(syntax: UID) -> Callable[[Numbers], bytes]:
    def make(by: Numbers) -> bytes:
        pixels = np.random.default_rng(1).integers(0, 255, (by["frames"], by["side"], by["side"]), dtype=np.uint8)
        return make_dicom(pixels, modality="CT", transfer_syntax=syntax)

    return make


def _dicom_elements(by: Numbers) -> bytes:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "1", "x" * by["length"]
    extra = Dataset()
    extra.ReferencedImageSequence = DicomSequence([item] * by["items"])
    extra.ImageComments = "x" * by["length"]
    return make_dicom(_picture(8), elements=extra, transfer_syntax=ExplicitVRLittleEndian)


FAMILIES = (
    Family("PNG", _png, {"side": (8, 4_000), "level": (1, 9), "chunks": (0, 200), "inflated": (1, 16_000_000)}),
    Family("JPEG", lambda by: many_scans(by["scans"], by["side"]), {"scans": (1, 30_000), "side": (16, 2_048)}),
    Family("TIFF strips", _tiff_strips, {"pages": (1, 500), "side": (64, 7_000)}),
    Family("TIFF tiles", lambda by: tiny_tiles(16 * by["tiles"]), {"tiles": (1, 500)}),
    Family("DICOM elements", _dicom_elements, {"items": (1, 100_000), "length": (1, 64)}),
    Family("JPEG 2000", _dicom(JPEG2000), {"frames": (1, 16), "side": (16, 1_024)}),
    Family("JPEG-LS", _dicom(JPEGLSLossless), {"frames": (1, 16), "side": (16, 1_024)}),
    Family("RLE", _dicom(RLELossless), {"frames": (1, 16), "side": (16, 1_024)}),
)


def search(seed: int, seconds: float, say: Callable[[str], None]) -> list[str]:
    """Look for so long, in turns of the families; what costs more than is promised."""
    found: list[str] = []
    if not seconds:
        return found
    sandbox = Sandbox(_limits(), Allowance(FIELDS["decode_seconds"].default, FIELDS["decode_memory_bytes"].default))
    for family in FAMILIES:
        until = time.monotonic() + seconds / len(FAMILIES)
        share, numbers, what = _dearest(family, random.Random(seed), until, sandbox)  # noqa: S311 - no secret
        say(f"{family.name}: {share:.0%} of what a file may cost, {what}, {dict(numbers)}")
        if share > 1:
            found.append(f"{family.name} {dict(numbers)}: {what}")
    return found


def _dearest(family: Family, chance: random.Random, until: float, sandbox: Sandbox) -> tuple[float, Numbers, str]:
    """The share, the numbers and the words of the dearest file of a family."""
    numbers: Numbers = {name: round(((low + 1) * (high + 1)) ** 0.5) for name, (low, high) in family.ranges.items()}
    best: tuple[float, Numbers, str] = (0.0, numbers, "")
    while True:
        with suppress(ValueError, MemoryError):  # no such file can be made
            data = family.make(numbers)
            if len(data) <= MOST_BYTES:
                share, what = _cost(data, sandbox)
                best = max(best, (share, numbers, what), key=lambda one: one[0])
        if time.monotonic() > until:
            return best
        numbers = _next(family, chance, best[1])


def _next(family: Family, chance: random.Random, best: Numbers) -> Numbers:
    """A neighbour of the best, and now and then something else."""
    if chance.random() < 0.2:
        return {name: round(low + (high - low) * chance.random() ** 3) for name, (low, high) in family.ranges.items()}
    name = chance.choice(list(family.ranges))
    low, high = family.ranges[name]
    changed = round(max(1, best[name]) * chance.choice((0.5, 0.8, 1.25, 2)))
    return {**best, name: min(max(changed, low), high)}


def _limits() -> Limits:
    values = {name: FIELDS[name].default for name in ("max_pixels", "max_frames", "max_file_pixels")}
    return Settings.model_construct(**values).image_limits


def _cost(data: bytes, sandbox: Sandbox) -> tuple[float, str]:
    """The largest share of what the file may cost that some process spent on it, and which."""
    allowed = SECONDS + SECONDS_PER_MB * len(data) / 1e6
    spent = {"API": _timed(lambda: _take_in(data))}
    budget = Budget(allowed)
    spent["worker"] = _timed(lambda: _decode(data, sandbox, budget))
    spent["decoder"] = budget.used
    shares = {name: used / (allowed + GRAIN_SECONDS * (name == "decoder")) for name, used in spent.items()}
    where = max(shares, key=lambda name: shares[name])
    return shares[where], f"{spent[where]:.2f} CPU s in the {where} for {len(data)} bytes"


def _timed(do: Callable[[], object]) -> float:
    began = time.process_time()
    with suppress(ThoraqError):
        do()
    return time.process_time() - began


def _take_in(data: bytes) -> None:
    info = probe(BytesIO(data), _limits())
    if info.media_type is MediaType.DICOM:
        deidentified(BytesIO(data), "secret")


def _decode(data: bytes, sandbox: Sandbox, budget: Budget) -> None:
    found = sandbox.prepared(data, InputSpec(), budget) if wants_sandbox(data) else frames(data, _limits())
    for _ in found:
        pass
