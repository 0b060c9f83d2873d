"""Near-copies: the same picture in another size, compression or brightness, found by a perceptual hash.

Difference hash (Krawetz 2013, "Kind of like that"): a picture is shrunk to a few pixels, and each bit says whether a
pixel is brighter than its neighbour. A crop or a rotation changes it: such copies are not found.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 16  # bits across and down
#: Of 256 bits: among 10,000 chest X-rays the copies that were left differ in 0 to 7, no pair in 8 to 11, and pictures
#: of different patients in 14 and more, ever more of them.
NEAR = 12
BLOCK = 2048  # hashes that are compared with all others at once


def difference_hash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SIDE * SIDE bits of a grey picture (H, W), packed."""
    small = cv2.resize(image, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1])


def groups(images: Iterable[NDArray[np.uint8]], near: int = NEAR) -> NDArray[np.int64]:
    """Return a number for each picture (N,), the same for near-copies, and for copies of copies."""
    bits = np.unpackbits(np.stack([difference_hash(image) for image in images]), axis=1).astype(np.float32)
    first, second = [], []
    for start in range(0, len(bits), BLOCK):
        block = bits[start : start + BLOCK]
        # Of ones and zeros, what differs is what either has without the other.
        apart = block.sum(1)[:, np.newaxis] + bits.sum(1) - 2 * (block @ bits.T)
        rows, columns = np.nonzero(apart <= near)
        first.append(rows + start)
        second.append(columns)
    rows, columns = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(bits), len(bits)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
