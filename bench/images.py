"""The files that every system is sent: the samples' chest X-rays at the size that a hospital sends."""

from __future__ import annotations

import struct
import zlib
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SIDE = 1024
SIGNATURE_AND_HEADER = 8 + 25  # PNG, third edition, 5.2 and 11.2.1: IHDR comes first and has a fixed length


def make_images(folder: Path, count: int, rounds: int) -> list[list[Path]]:
    """`count` grey PNGs of SIDE x SIDE for each of `rounds`, in `folder`, which is made.

    No two have the same bytes, so nobody can answer one from another's result. The samples are enlarged, hence
    smoother, and decode a little faster than X-rays that were taken at this size.
    """
    pictures = [_enlarged(path) for path in sorted(SAMPLES.glob("xray-*")) if path.suffix in {".jpg", ".png"}]
    folder.mkdir()
    return [
        [_write(folder, f"{number}-{index}", png) for index, png in enumerate(islice(cycle(pictures), count))]
        for number in range(rounds)
    ]


def _enlarged(path: Path) -> bytes:
    grey = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError(f"the sample {path.name} cannot be read")
    return _encoded(np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8))


def _encoded(grey: NDArray[np.uint8]) -> bytes:
    done, png = cv2.imencode(".png", grey)
    if not done:
        raise ValueError("a sample cannot be written as PNG")
    return png.tobytes()


def _write(folder: Path, name: str, png: bytes) -> Path:
    path = folder / f"{name}.png"
    path.write_bytes(stamped(png, name))
    return path


def stamped(png: bytes, text: str) -> bytes:
    """The same picture in other bytes: `text` in a tEXt chunk (PNG, third edition, 11.3.3.3) after the header."""
    body = b"tEXt" + b"Comment\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:SIGNATURE_AND_HEADER] + chunk + png[SIGNATURE_AND_HEADER:]
