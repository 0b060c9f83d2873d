"""Which files of a directory are images to send."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"})


def find(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Files to send and how many others lie beside them.

    A file that is named is sent, whatever it is; of a directory, the images at any depth. Sorted within a directory,
    each file once however often it is named. OSError for what cannot be read.
    """
    found: list[Path] = []
    skipped = 0
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        walk = os.walk(path, onerror=_unreadable)
        inside = sorted(Path(folder, name) for folder, _, names in walk for name in names)
        images = [file for file in inside if _is_image(file)]
        found += images
        skipped += len(inside) - len(images)
    return list(dict.fromkeys(found)), skipped


def _unreadable(error: OSError) -> None:
    raise error  # os.walk would pass over the directory in silence


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    # Exports often name DICOM files by number alone; the standard marks them at byte 128 (PS3.10, 7.1).
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
