"""Many real images out of the few samples: each a little brighter or darker than the others, with bytes of its own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SAMPLES = Path(__file__).parents[3] / "samples"
SOURCES = ("xray-covid19.jpg", "xray-normal.png", "xray-pneumonia.jpg", "xray-two-views-1.jpg", "xray-two-views-2.jpg")


def many_images(folder: Path, count: int) -> list[Path]:
    """`count` JPEG files in folders of a thousand, in the order in which a client finds them."""
    pictures = [cv2.imread(str(SAMPLES / name), cv2.IMREAD_GRAYSCALE) for name in SOURCES]
    paths = []
    for index in range(count):
        path = folder / f"{index // 1000:02}" / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = pictures[index % len(pictures)]
        assert picture is not None
        varied = np.clip(picture * (0.5 + index / (2 * count)), 0, 255).astype(np.uint8)
        # Steps that are finer than a grey level are told apart by a shift.
        varied = np.roll(varied, index % 7, axis=1)
        assert cv2.imwrite(str(path), varied, [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(path)
    return paths
