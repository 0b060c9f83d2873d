"""The files that every system is sent: the samples' chest X-rays, large as a hospital sends them, or small."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SIDE = 1024
SMALL_SIDE = 224
SIGNATURE_AND_HEADER = 8 + 25  # PNG, third edition, 5.2 and 11.2.1: IHDR comes first and has a fixed length


def make_images(folder: Path, count: int, rounds: int) -> list[list[Path]]:
    """`count` grey PNGs of SIDE x SIDE for each of `rounds`, in `folder`, which is made.

    No two have the same bytes, so nobody can answer one from another's result. The samples are enlarged, hence
    smoother, and decode a little faster than X-rays that were taken at this size.
    """
    pictures = [_encoded(".png", _resized(grey, SIDE)) for grey in _samples()]
    folder.mkdir(parents=True)
    return [
        [
            _write(folder / f"{number}-{index:05}.png", stamped_png(png, f"{number}-{index}"))
            for index, png in enumerate(islice(cycle(pictures), count))
        ]
        for number in range(rounds)
    ]


def make_small(folder: Path, count: int, name: str = "small") -> list[Path]:
    """`count` grey JPEGs of SMALL_SIDE x SMALL_SIDE in `folder`, no two with the same bytes, whatever the `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"{name}-{index:05}.jpg", jpeg) for index, jpeg in enumerate(small_jpegs(count, name))]


def small_jpegs(count: int, name: str) -> Iterator[bytes]:
    """Yield the bytes of `make_small`."""
    pictures = [_encoded(".jpg", _resized(grey, SMALL_SIDE)) for grey in _samples()]
    for index, jpeg in enumerate(islice(cycle(pictures), count)):
        yield stamped_jpeg(jpeg, f"{name}-{index}")


def make_links(folder: Path, size: int) -> list[Path]:
    """Names in `folder` for one PNG that does not compress, as many as make `size` bytes together."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), np.uint8)
    first = _write(folder / "00000.png", _encoded(".png", noise))
    links = [first]
    for number in range(1, max(1, size // first.stat().st_size)):
        link = folder / f"{number:05}.png"
        link.hardlink_to(first)
        links.append(link)
    return links


def stamped_png(png: bytes, text: str) -> bytes:
    """Make other bytes of a picture: `text` in a tEXt chunk (PNG, third edition, 11.3.3.3) after the header."""
    body = b"tEXt" + b"Comment\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:SIGNATURE_AND_HEADER] + chunk + png[SIGNATURE_AND_HEADER:]


def stamped_jpeg(jpeg: bytes, text: str) -> bytes:
    """Make other bytes of a picture: `text` as a comment (ITU-T T.81, B.2.4.5) after the start of the image."""
    comment = text.encode("latin-1")
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def _samples() -> Iterator[NDArray[np.uint8]]:
    for path in sorted(SAMPLES.glob("xray-*")):
        if path.suffix in {".jpg", ".png"}:
            grey = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
            if grey is None:
                raise ValueError(f"the sample {path.name} cannot be read")
            yield np.asarray(grey, np.uint8)


def _resized(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    how = cv2.INTER_CUBIC if side > grey.shape[0] else cv2.INTER_AREA
    return np.asarray(cv2.resize(grey, (side, side), interpolation=how), np.uint8)


def _encoded(kind: str, grey: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(kind, grey)
    if not done:
        raise ValueError(f"a sample cannot be written as {kind}")
    return data.tobytes()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
