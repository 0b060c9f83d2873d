"""Pictures that are no chest images, for fitting the gate and, of other sources and kinds, for measuring it.

They come from the data files that installed libraries carry, from drawings, and from chest images that are spoiled.
Nothing is downloaded.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from shared.errors import ConfigError
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import InputSpec, prepare
from training.data.images import SEED
from training.gate.drawings import FITTING, MEASURING, Drawing, Grey

VIEWS, DRAWN = 16, 40  # pictures of each shipped file, and of each drawing
SCIKIT_IMAGE, SCIKIT_LEARN = "skimage/data", "sklearn/datasets"
PYDICOM, MATPLOTLIB = "pydicom/data/test_files", "matplotlib/mpl-data/sample_data"

# Kind of picture to files. No file, and no scene, is in both tables; most kinds of the second are not in the first.
SHIPPED_FITTING: Mapping[str, Sequence[str]] = {
    "photograph": (
        f"{SCIKIT_IMAGE}/astronaut.png", f"{SCIKIT_IMAGE}/chelsea.png", f"{SCIKIT_IMAGE}/coffee.png",
        f"{SCIKIT_IMAGE}/motorcycle_left.png", f"{SCIKIT_IMAGE}/rocket.jpg", f"{SCIKIT_IMAGE}/coins.png",
        f"{SCIKIT_LEARN}/images/china.jpg", f"{SCIKIT_LEARN}/images/flower.jpg",
    ),
    "texture": (f"{SCIKIT_IMAGE}/brick.png", f"{SCIKIT_IMAGE}/gravel.png"),
    "stars": (f"{SCIKIT_IMAGE}/hubble_deep_field.jpg",),
    "histology": (f"{SCIKIT_IMAGE}/ihc.png",),
    "printed page": (f"{SCIKIT_IMAGE}/page.png",),
    "silhouette": (f"{SCIKIT_IMAGE}/horse.png",),
    "head CT": (f"{PYDICOM}/693_J2KI.dcm",),
    "vessel MR": (f"{PYDICOM}/MR_small.dcm",),
    "vessel ultrasound": (f"{PYDICOM}/examples_rgb_color.dcm",),
}  # fmt: skip
SHIPPED_MEASURING: Mapping[str, Sequence[str]] = {
    "portrait": (f"{SCIKIT_IMAGE}/camera.png", f"{MATPLOTLIB}/grace_hopper.jpg"),
    "faces": (f"{SCIKIT_IMAGE}/lfw_subset.npy",),
    "grass": (f"{SCIKIT_IMAGE}/grass.png",),
    "moon": (f"{SCIKIT_IMAGE}/moon.png",),
    "cell": (f"{SCIKIT_IMAGE}/cell.png",),
    "retina": (f"{SCIKIT_IMAGE}/retina.jpg", f"{SCIKIT_IMAGE}/microaneurysms.png"),
    "handwriting": (f"{SCIKIT_IMAGE}/text.png", f"{SCIKIT_LEARN}/data/digits.csv.gz"),
    "illustration": (
        f"{SCIKIT_IMAGE}/logo.png", f"{MATPLOTLIB}/logo2.png", f"{MATPLOTLIB}/Minduka_Present_Blue_Pack.png",
    ),
    "terrain": (f"{MATPLOTLIB}/jacksboro_fault_dem.npz", f"{MATPLOTLIB}/topobathy.npz"),
    "phantom": (f"{SCIKIT_IMAGE}/phantom.png",),
    "skull base CT": (f"{PYDICOM}/J2K_pixelrep_mismatch.dcm",),
    "vertebra CT": (f"{PYDICOM}/CT_small.dcm",),
    "head MR": (f"{MATPLOTLIB}/s1045.ima.gz",),
    "abdomen MR": (f"{PYDICOM}/examples_overlay.dcm",),
    "echocardiogram": (f"{PYDICOM}/examples_ybr_color.dcm",),
    "ultrasound": (f"{PYDICOM}/examples_palette.dcm",),
    "bone scan": (f"{PYDICOM}/JPEG2000.dcm",),
    "segmentation": (f"{PYDICOM}/liver_1frame.dcm",),
}  # fmt: skip


@dataclass(frozen=True)
class Outlier:
    """A prepared picture that is no chest image; pictures of one source are views of one file, or one drawing's."""

    kind: str
    source: str
    image: Grey


def fitting(spec: InputSpec, seed: int = SEED) -> list[Outlier]:
    """Pictures to fit a gate with."""
    return [*_shipped(SHIPPED_FITTING, spec, seed), *_drawn(FITTING, spec, seed)]


def measuring(spec: InputSpec, seed: int = SEED) -> list[Outlier]:
    """Pictures to measure a gate with, of other sources and nearly all of other kinds than those of `fitting`."""
    return [*_shipped(SHIPPED_MEASURING, spec, seed + 1), *_drawn(MEASURING, spec, seed + 1)]


def negative(image: Grey) -> Grey:
    """Black for white."""
    return np.asarray(255 - image, np.uint8)


def upside_down(image: Grey) -> Grey:
    """Top for bottom."""
    return np.ascontiguousarray(image[::-1])


def sideways(image: Grey) -> Grey:
    """Return a quarter turn."""
    return np.ascontiguousarray(np.rot90(image))


SPOILED: Mapping[str, Callable[[Grey], Grey]] = {
    "negative": negative,
    "upside down": upside_down,
    "sideways": sideways,
}


def jigsaw(image: Grey, rng: np.random.Generator, pieces: int = 3) -> Grey:
    """Return the picture's tiles in another order: every texture of a chest image, and no chest."""
    side = image.shape[0] // pieces
    tiles = [image[r * side :, c * side :][:side, :side] for r in range(pieces) for c in range(pieces)]
    order = rng.permutation(len(tiles))
    rows = [np.hstack([tiles[number] for number in order[start : start + pieces]])
            for start in range(0, len(tiles), pieces)]  # fmt: skip
    return np.asarray(cv2.resize(np.vstack(rows), image.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def views(grey: Grey, spec: InputSpec, rng: np.random.Generator, count: int) -> Iterator[Grey]:
    """Crops of 60 % of each side or more, half of them mirrored."""
    for _ in range(count):
        height, width = (max(2, int(side * rng.uniform(0.6, 1))) for side in grey.shape)
        top, left = rng.integers(grey.shape[0] - height + 1), rng.integers(grey.shape[1] - width + 1)
        crop = grey[top : top + height, left : left + width]
        yield prepare(np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop), spec)


def _shipped(table: Mapping[str, Sequence[str]], spec: InputSpec, seed: int) -> Iterator[Outlier]:
    rng = np.random.default_rng(seed)
    for kind, files in table.items():
        for file in files:
            for grey in (pictures := _read(file)):
                for view in views(grey, spec, rng, VIEWS // len(pictures)):
                    yield Outlier(kind, file, view)


def _drawn(drawings: Mapping[str, Drawing], spec: InputSpec, seed: int) -> Iterator[Outlier]:
    rng = np.random.default_rng(seed)
    for kind, draw in drawings.items():
        for _ in range(DRAWN):
            yield Outlier(f"drawn {kind}", f"drawn {kind}", draw(rng, spec.size))


def _read(file: str) -> list[Grey]:
    """Return the pictures of a file that an installed package carries; ConfigError when it is not there."""
    package, inside = file.split("/", 1)
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{package} is not installed: install the extra `train`")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise ConfigError(f"this release of {package} does not carry {path.name}")
    reader = READERS.get("".join(path.suffixes), _picture)
    return [grey for grey in reader(path) if grey.size]


def _picture(path: Path) -> list[Grey]:
    return [decode_one(path.read_bytes(), Limits())]


def _dicom(path: Path) -> list[Grey]:
    """Return the first frame. Not through our own decoder, which refuses most of these modalities.

    Here they are welcome.
    """
    dataset = dcmread(path)
    pixels = dataset.pixel_array
    first = pixels[0] if int(dataset.get("NumberOfFrames") or 1) > 1 else pixels
    return [_stretched(first.mean(-1) if dataset.SamplesPerPixel > 1 else first)]


def _siemens(path: Path) -> list[Grey]:
    return [_stretched(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint16).reshape(256, 256))]


def _table(path: Path) -> list[Grey]:
    """Sixteen digits of 8 x 8."""
    rows = np.loadtxt(path, delimiter=",", max_rows=16)[:, :64]
    return [_stretched(row.reshape(8, 8)) for row in rows]


def _stack(path: Path) -> list[Grey]:
    """Return the first sixteen of a stack of pictures: faces come first."""
    return [_stretched(picture) for picture in np.load(path)[:16]]


def _heights(path: Path) -> list[Grey]:
    with np.load(path) as arrays:
        name = next(name for name in ("elevation", "topo") if name in arrays)
        return [_stretched(arrays[name])]


def _stretched(values: NDArray[Any]) -> Grey:
    """Any numbers to grey, from their 0.5th percentile to their 99.5th."""
    low, high = np.percentile(values, [0.5, 99.5])
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255), np.uint8)


READERS: Mapping[str, Callable[[Path], list[Grey]]] = {
    ".dcm": _dicom,
    ".ima.gz": _siemens,
    ".csv.gz": _table,
    ".npy": _stack,
    ".npz": _heights,
}
