"""What the edge and the worker know about an image before a pixel of it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptImage, ImageTooLarge


class MediaType(StrEnum):
    """The four formats that are read, told apart by their magic bytes."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    TIFF = "image/tiff"
    DICOM = "application/dicom"


@dataclass(frozen=True)
class Limits:
    """What a sender may make us decode: pixels of one frame, frames of one file, pixels of all of its frames."""

    max_pixels: int = 64_000_000
    max_frames: int = 2000
    max_file_pixels: int = 2_000_000_000

    def check(self, width: int, height: int, frames: int = 1) -> None:
        """Raise CorruptImage for a picture without area, ImageTooLarge for one beyond the limits."""
        if width < 1 or height < 1 or frames < 1:
            raise CorruptImage("The header declares an image without pixels.")
        if width * height > self.max_pixels:
            raise ImageTooLarge(f"{width} x {height} pixels; at most {self.max_pixels} are accepted.")
        if frames > self.max_frames:
            raise ImageTooLarge(f"{frames} frames; at most {self.max_frames} are accepted.")
        # A few megabytes may hold hours of work: each frame black, each within the limits.
        if width * height * frames > self.max_file_pixels:
            raise ImageTooLarge(f"More than {self.max_file_pixels} pixels in all frames together.")


@dataclass(frozen=True)
class Picture:
    """A frame in display grey (H, W); `in_lung_window` is False for a CT slice that is shown in another window.

    Pictures whose window nobody knows, those of other formats than DICOM, are not doubted.
    """

    grey: NDArray[np.uint8]
    in_lung_window: bool = True


@dataclass(frozen=True)
class ImageInfo:
    """The header's word: width and height as stored (of the first frame, before any EXIF rotation).

    `modality` and the UIDs come from DICOM only and are None for the other formats.
    """

    media_type: MediaType
    width: int
    height: int
    frames: int = 1
    modality: Literal["xray", "ct"] | None = None
    series_uid: str | None = None
    study_uid: str | None = None
    #: DICOM says that text is burned into the pixels (PS3.3, C.7.6.1.1.5); that it is silent says nothing
    burned_in: bool = False
    #: what de-identification has removed and replaced, by keyword; None when nothing was done
    deidentified: dict[str, list[str]] | None = None
